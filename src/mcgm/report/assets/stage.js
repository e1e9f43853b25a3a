"use strict";
// What the pages with molecules share: colours, switches, and the drawing itself.
const stage = (() => {
  // Okabe and Ito's seven hues, told apart in every kind of colour vision; from the eighth cluster on in darker tones.
  const hues = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
  const elementColors = { H: "#c9ced4", C: "#6b727b", N: "#3b6fd1", O: "#d1453b", F: "#5fb55a", P: "#e0803a", S: "#c9a80f", Cl: "#3fa14a", Br: "#9a4a2a", I: "#7d3fa0" };
  const elementColor = (symbol) => elementColors[symbol] || "#b06ab3";
  const channels = (hex) => [0, 1, 2].map((k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16));
  const mix = (from, to, part) => {
    const target = channels(to);
    const mixed = channels(from).map((base, k) => Math.round(base + part * (target[k] - base)));
    return "#" + mixed.map((value) => value.toString(16).padStart(2, "0")).join("");
  };
  const clusterColor = (label) => mix(hues[label % hues.length], "#000000", Math.floor(label / hues.length) % 2 ? 0.45 : 0);
  const weaken = (color, weight) => mix("#969ba0", color, 0.25 + 0.75 * weight);
  // Blue below, red above, from -1 to 1: the pair that stays apart in every kind of colour vision.
  const ends = ["#2166ac", "#e8e8e8", "#b2182b"];
  const diverging = (value) => mix(ends[1], value < 0 ? ends[0] : ends[2], Math.min(1, Math.abs(value)));

  const fillSelect = (select, texts, value) => {
    select.replaceChildren(...texts.map((text, k) => new Option(text, k)));
    select.value = Math.min(value, texts.length - 1);
  };

  const fillButtons = (holder, names, pressed, pick) => {
    holder.replaceChildren(...names.map((name, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.setAttribute("aria-pressed", String(k === pressed));
      button.addEventListener("click", () => { pick(k); holder.children[k].focus(); });
      return button;
    }));
  };

  // Asked for here, because the library does not fail everywhere where there is none.
  const open = (element, hint) => {
    const probe = document.createElement("canvas");
    const drawable = Boolean(probe.getContext("webgl2") || probe.getContext("webgl"));
    let viewer = null;
    try {
      if (drawable) viewer = $3Dmol.createViewer(element, { backgroundAlpha: 0, antialias: true });
    } catch (error) {
      viewer = null;
    }
    if (!viewer) {
      hint.textContent = "This browser gives no WebGL, so the molecules cannot be drawn; the list below still counts the clusters.";
      return null;
    }
    hint.remove();
    viewer.setBackgroundColor(0xffffff, 0);
    return viewer;
  };

  const place = (viewer, item, symbolOf) => {
    viewer.removeAllModels();
    const rows = item.numbers.map((_, atom) => [symbolOf(atom), ...item.positions[atom]].join(" "));
    viewer.addModel([item.numbers.length, "", ...rows].join("\n"), "xyz");
  };

  const paint = (viewer, colorOf, pointed) => {
    const colorfunc = (atom) => colorOf(atom.index);
    viewer.setStyle({}, { stick: { radius: 0.13, colorfunc }, sphere: { scale: 0.27, colorfunc } });
    viewer.setHoverable({}, true, (atom) => pointed(atom.index), () => pointed(null));
    viewer.render();
  };

  return { elementColor, clusterColor, weaken, diverging, ends, fillSelect, fillButtons, open, place, paint };
})();
