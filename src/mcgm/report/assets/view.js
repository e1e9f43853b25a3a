"use strict";
(() => {
  const scene = JSON.parse(document.getElementById("molecules").textContent);
  const choose = (id) => document.getElementById(id);
  let viewer = null;
  let shown = null;
  let level = 1;

  const variants = scene.variants;
  const molecule = () => {
    const all = variants[choose("variant").value].molecules;
    return all[Math.min(choose("molecule").value, all.length - 1)];
  };

  const symbol = (item, atom) => scene.symbols[item.numbers[atom]];
  const colorOf = (item, atom) => {
    if (level === 0) return stage.elementColor(symbol(item, atom));
    const clusters = item.levels[level - 1];
    return stage.weaken(stage.clusterColor(clusters.label[atom]), clusters.weight[atom]);
  };
  const nameOf = (clusters, label) => (clusters.names.length ? clusters.names[label] : `cluster ${label + 1}`);

  const drawLevels = (item) => {
    level = Math.min(level, item.levels.length);
    const names = ["elements", ...item.levels.map((_, k) => `level ${k + 1}`)];
    stage.fillButtons(choose("levels"), names, level, (k) => { level = k; update(); });
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
      swatch.style.background = level === 0 ? stage.elementColor(key) : stage.clusterColor(key);
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
    const moved = shown === null || shown.name !== item.name;
    if (shown !== item) stage.place(viewer, item, (atom) => symbol(item, atom));
    if (moved) viewer.zoomTo();
    shown = item;
    stage.paint(viewer, (atom) => colorOf(item, atom), (atom) => { choose("hover").textContent = atom === null ? "" : describe(item, atom); });
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
    stage.fillSelect(choose("molecule"), molecules.map((item) => item.name), choose("molecule").value || 0);
    update();
  };

  viewer = stage.open(choose("viewer"), choose("hint"));
  stage.fillSelect(choose("variant"), variants.map((variant) => variant.label), 0);
  choose("variant").addEventListener("change", changeVariant);
  choose("molecule").addEventListener("change", update);
  addEventListener("beforeprint", () => { if (viewer) choose("printed").src = viewer.pngURI(); });
  changeVariant();
  document.documentElement.dataset.view = viewer ? "drawn" : "no-webgl";
})();
