"use strict";
(() => {
  const scene = JSON.parse(document.getElementById("molecules").textContent);
  const choose = (id) => document.getElementById(id);
  const hint = choose("hint");
  let viewer = null;
  let shown = null;
  let level = 1;

  const variants = scene.variants;
  const molecule = () => {
    const all = variants[choose("variant").value].molecules;
    return all[Math.min(choose("molecule").value, all.length - 1)];
  };

  // Far apart in hue, alike in lightness; the membership weakens a colour towards grey.
  const hues = ["#3b78c3", "#e0803a", "#2f9e7a", "#c2578f", "#8b72cf", "#b59a1f", "#3fa3bd", "#c9574f", "#6b8e23", "#7a6a5c"];
  const elementColors = { H: "#c9ced4", C: "#6b727b", N: "#3b6fd1", O: "#d1453b", F: "#5fb55a", P: "#e0803a", S: "#c9a80f", Cl: "#3fa14a", Br: "#9a4a2a", I: "#7d3fa0" };
  const grey = [150, 155, 160];
  const weaken = (hex, weight) => {
    const part = 0.25 + 0.75 * weight;
    const mixed = grey.map((base, k) => Math.round(base + part * (parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16) - base)));
    return "#" + mixed.map((value) => value.toString(16).padStart(2, "0")).join("");
  };

  const symbol = (item, atom) => scene.symbols[item.numbers[atom]];
  const colorOf = (item, atom) => {
    if (level === 0) return elementColors[symbol(item, atom)] || "#b06ab3";
    const clusters = item.levels[level - 1];
    return weaken(hues[clusters.label[atom] % hues.length], clusters.weight[atom]);
  };
  const nameOf = (clusters, label) => (clusters.names.length ? clusters.names[label] : `cluster ${label + 1}`);

  const fillSelect = (select, texts, value) => {
    select.replaceChildren(...texts.map((text, k) => new Option(text, k)));
    select.value = Math.min(value, texts.length - 1);
  };

  const drawLevels = (item) => {
    level = Math.min(level, item.levels.length);
    const names = ["elements", ...item.levels.map((_, k) => `level ${k + 1}`)];
    choose("levels").replaceChildren(...names.map((name, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.setAttribute("aria-pressed", String(k === level));
      button.addEventListener("click", () => { level = k; update(); choose("levels").children[k].focus(); });
      return button;
    }));
  };

  const drawLegend = (item) => {
    const counts = new Map();
    item.numbers.forEach((_, atom) => {
      const key = level === 0 ? symbol(item, atom) : item.levels[level - 1].label[atom];
      const entry = counts.get(key) || { atoms: 0, weight: 0 };
      entry.atoms += 1;
      entry.weight += level === 0 ? 1 : item.levels[level - 1].weight[atom];
      counts.set(key, entry);
    });
    const keys = [...counts.keys()].sort((a, b) => (typeof a === "number" ? a - b : a.localeCompare(b)));
    choose("legend").replaceChildren(...keys.map((key) => {
      const row = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = level === 0 ? elementColors[key] || "#b06ab3" : hues[key % hues.length];
      const { atoms, weight } = counts.get(key);
      const mean = weight / atoms;
      const name = level === 0 ? key : nameOf(item.levels[level - 1], key);
      row.append(swatch, `${name}: ${atoms} ${atoms === 1 ? "atom" : "atoms"}` + (mean < 0.995 ? `, mean membership ${mean.toFixed(2)}` : ""));
      return row;
    }));
  };

  const describe = (item, atom) => {
    const lines = item.levels.map((clusters, k) => `level ${k + 1}: ${nameOf(clusters, clusters.label[atom])} (${clusters.weight[atom].toFixed(2)})`);
    return [`${symbol(item, atom)} ${atom}`, ...lines].join(" · ");
  };

  const drawMolecule = (item) => {
    if (viewer === null) return;
    if (shown !== item) {
      const moved = shown === null || shown.name !== item.name;
      viewer.removeAllModels();
      const rows = item.numbers.map((_, atom) => [symbol(item, atom), ...item.positions[atom]].join(" "));
      viewer.addModel([item.numbers.length, "", ...rows].join("\n"), "xyz");
      if (moved) viewer.zoomTo();
      shown = item;
    }
    const colorfunc = (atom) => colorOf(item, atom.index);
    viewer.setStyle({}, { stick: { radius: 0.13, colorfunc }, sphere: { scale: 0.27, colorfunc } });
    viewer.setHoverable({}, true, (atom) => { choose("hover").textContent = describe(item, atom.index); }, () => { choose("hover").textContent = ""; });
    viewer.render();
  };

  function update() {
    const item = molecule();
    choose("hover").textContent = "";
    drawLevels(item);
    drawLegend(item);
    drawMolecule(item);
  }

  const changeVariant = () => {
    const molecules = variants[choose("variant").value].molecules;
    fillSelect(choose("molecule"), molecules.map((item) => item.name), choose("molecule").value || 0);
    update();
  };

  // Asked for here, because the library does not fail everywhere where there is none.
  const probe = document.createElement("canvas");
  const drawable = Boolean(probe.getContext("webgl2") || probe.getContext("webgl"));
  try {
    if (drawable) viewer = $3Dmol.createViewer(choose("viewer"), { backgroundAlpha: 0, antialias: true });
  } catch (error) {
    viewer = null;
  }
  if (!viewer) {
    hint.textContent = "This browser gives no WebGL, so the molecules cannot be drawn; the list below still counts the clusters.";
  } else {
    hint.remove();
    viewer.setBackgroundColor(0xffffff, 0);
  }
  fillSelect(choose("variant"), variants.map((variant) => variant.label), 0);
  choose("variant").addEventListener("change", changeVariant);
  choose("molecule").addEventListener("change", update);
  addEventListener("beforeprint", () => { if (viewer) choose("printed").src = viewer.pngURI(); });
  changeVariant();
  document.documentElement.dataset.view = viewer ? "drawn" : "no-webgl";
})();
