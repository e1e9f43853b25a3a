"use strict";
(() => {
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const choose = (id) => document.getElementById(id);
  const structures = scene.structures;
  let color = "level 1";
  let shown = null;

  const current = () => structures[Number(choose("structure").value)];
  const levels = () => current().layers[Number(choose("layer").value)] || [];
  const symbol = (item, atom) => scene.symbols[item.numbers[atom]];
  const nameOf = (level, label) => level.atoms.names[label] || `cluster ${label + 1}`;
  const signed = (value, digits) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
  const atomsOf = (mass) => `${Number(mass.toFixed(2))} ${mass === 1 ? "atom" : "atoms"}`;

  // Values on the diverging scale: energies about their mean in the structure, charges about zero.
  const scaled = (item) => {
    const values = color === "energy" ? item.atom_energy : item.charges;
    const center = color === "energy" ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
    const reach = Math.max(...values.map((value) => Math.abs(value - center)), 1e-9);
    return { values, center, reach, unit: color === "energy" ? "eV" : "e" };
  };

  const painter = (item) => {
    if (color === "elements") return (atom) => stage.elementColor(symbol(item, atom));
    if (color === "energy" || color === "charge") {
      const { values, center, reach } = scaled(item);
      return (atom) => stage.diverging((values[atom] - center) / reach);
    }
    const { label, weight } = levels()[Number(color.slice(6)) - 1].atoms;
    return (atom) => stage.weaken(stage.clusterColor(label[atom]), weight[atom]);
  };

  const describe = (item, atom) => [
    `${symbol(item, atom)} ${atom}`,
    ...levels().map((level, k) => `level ${k + 1}: ${nameOf(level, level.atoms.label[atom])} (${level.atoms.weight[atom].toFixed(2)})`),
    `${signed(item.atom_energy[atom], 3)} eV`,
    ...(item.charges.length ? [`${signed(item.charges[atom], 3)} e`] : []),
  ].join(" · ");

  const element = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };
  const swatch = (background) => {
    const made = element("span", "");
    made.className = "swatch";
    made.style.background = background;
    return made;
  };

  const fillTable = (table, titles, rows) => {
    const head = element("thead", "");
    head.append(element("tr", ""));
    head.firstChild.append(...titles.map((title) => element("th", title)));
    const body = element("tbody", "");
    body.append(...rows.map(([first, ...cells]) => {
      const row = element("tr", "");
      const name = element("th", "");
      name.append(...first);
      row.append(name, ...cells.map((text) => element("td", text)));
      return row;
    }));
    table.replaceChildren(head, body);
  };

  const drawColors = (item) => {
    const names = ["elements", ...levels().map((_, k) => `level ${k + 1}`), "energy", ...(item.charges.length ? ["charge"] : [])];
    if (!names.includes(color)) color = names[Math.min(1, names.length - 1)];
    stage.fillButtons(choose("colors"), names, names.indexOf(color), (k) => { color = names[k]; update(); });
  };

  const drawLegend = (item) => {
    const isScale = color === "energy" || color === "charge";
    choose("scale").style.display = isScale ? "grid" : "none";
    choose("legend").replaceChildren();
    if (isScale) {
      const { center, reach, unit } = scaled(item);
      const [low, bar, high] = choose("scale").children;
      low.textContent = `${signed(center - reach, 3)} ${unit}`;
      high.textContent = `${signed(center + reach, 3)} ${unit}`;
      bar.style.background = `linear-gradient(to right, ${stage.ends.join(", ")})`;
      choose("explanation").textContent = color === "energy"
        ? `Energy of each atom without element references, about its mean in this structure, ${signed(center, 3)} eV; energies of clusters are not in it.`
        : "Predicted charge of each atom, about zero.";
      return;
    }
    const counts = new Map();
    const keys = color === "elements" ? item.numbers : levels()[Number(color.slice(6)) - 1].atoms.label;
    keys.forEach((key) => counts.set(key, (counts.get(key) || 0) + 1));
    const level = levels()[Number(color.slice(6)) - 1];
    choose("legend").append(...[...counts.keys()].sort((a, b) => a - b).map((key) => {
      const row = element("li", "");
      const isElement = color === "elements";
      const name = isElement ? scene.symbols[key] : nameOf(level, key);
      row.append(swatch(isElement ? stage.elementColor(name) : stage.clusterColor(key)), `${name}: ${atomsOf(counts.get(key))}`);
      return row;
    }));
    choose("explanation").textContent = color === "elements" ? "" : "Each atom in the colour of the cluster of its largest membership; the greyer, the weaker the membership. After seven clusters the colours repeat darker.";
  };

  const drawEnergies = (item) => {
    const own = item.atom_energy.reduce((sum, value) => sum + value, 0);
    const parts = [["element references", item.reference_energy], ["atoms", own], ["clusters", item.cluster_energy]];
    if (item.charges.length) parts.push(["electrostatics", item.electrostatic_energy]);
    parts.push(["total", item.energy]);
    fillTable(choose("energies"), ["Part", "Energy, eV"], parts.map(([name, value]) => [[name], signed(value, 4)]));
    const last = item.layers[item.layers.length - 1] || [];
    const rows = last.flatMap((level, k) => level.mass.map((mass, cluster) => [
      [swatch(stage.clusterColor(cluster)), `level ${k + 1}, ${nameOf(level, cluster)}`], String(Number(mass.toFixed(2))), signed(level.energy[cluster], 4),
    ]));
    fillTable(choose("clusters"), ["Cluster", "Atoms", "Energy, eV"], rows);
    choose("clusters").hidden = last.length === 0;
  };

  const drawAtoms = (item) => {
    if (!choose("atoms").open) return;
    const titles = ["Atom", ...levels().map((_, k) => `Level ${k + 1}`), "Energy, eV", ...(item.charges.length ? ["Charge, e"] : [])];
    const rows = item.numbers.map((_, atom) => [
      [`${symbol(item, atom)} ${atom}`],
      ...levels().map((level) => `${nameOf(level, level.atoms.label[atom])} (${level.atoms.weight[atom].toFixed(2)})`),
      signed(item.atom_energy[atom], 4),
      ...(item.charges.length ? [signed(item.charges[atom], 3)] : []),
    ]);
    fillTable(choose("atoms").querySelector("table"), titles, rows);
  };

  const svg = (name, attributes, title) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    if (title) {
      made.append(document.createElementNS("http://www.w3.org/2000/svg", "title"));
      made.firstChild.textContent = title;
    }
    return made;
  };

  // One column of nodes for the atoms and for every level; nodes stand in the order of where their members stand.
  const columns = (item) => {
    const order = item.numbers.map((_, atom) => atom);
    const key = (atom) => levels().map((level) => level.atoms.label[atom]).reverse();
    order.sort((a, b) => { const [x, y] = [key(a), key(b)]; const k = x.findIndex((value, i) => value !== y[i]); return k < 0 ? a - b : x[k] - y[k]; });
    const found = [order.map((atom) => ({ id: atom, size: 1, name: "", color: stage.elementColor(symbol(item, atom)), title: `${symbol(item, atom)} ${atom}` }))];
    levels().forEach((level) => {
      const place = new Map(found[found.length - 1].map((node, k) => [node.id, k]));
      const middle = level.mass.map(() => 0);
      level.flows.forEach((flow) => { middle[flow.cluster] += flow.atoms * place.get(flow.member) / level.mass[flow.cluster]; });
      const nodes = level.mass.map((size, id) => ({ id, size, name: nameOf(level, id), color: stage.clusterColor(id), title: `${nameOf(level, id)}: ${atomsOf(size)}` }));
      found.push(nodes.filter((node) => node.size > 1e-3).sort((a, b) => middle[a.id] - middle[b.id]));
    });
    return found;
  };

  const drawTree = (item) => {
    choose("merging").hidden = levels().length === 0;
    if (levels().length === 0) return;
    const [width, height, bar, top] = [900, 320, 14, 22];
    const drawn = columns(item);
    const gap = Math.min(12, height / 4 / Math.max(...drawn.slice(1).map((nodes) => nodes.length)));
    const room = height - gap * Math.max(...drawn.slice(1).map((nodes) => nodes.length - 1));
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height + top + 8}`, role: "img", "aria-label": "How clusters merge" });
    const step = (width - 150 - bar) / (drawn.length - 1);
    const places = drawn.map((nodes, k) => {
      const space = k === 0 ? (height - room) / Math.max(1, nodes.length - 1) : gap;
      let y = top + (k === 0 ? 0 : (height - room - gap * (nodes.length - 1)) / 2);
      return new Map(nodes.map((node) => {
        const place = { x: k * step, y, height: node.size * room / item.numbers.length, into: y, out: y, node };
        y += place.height + space;
        return [node.id, place];
      }));
    });
    levels().forEach((level, k) => {
      const rank = new Map([...places[k + 1].keys()].map((id, place) => [id, place]));
      const from = new Map([...places[k].keys()].map((id, place) => [id, place]));
      const flows = level.flows.filter((flow) => places[k].has(flow.member) && rank.has(flow.cluster));
      flows.sort((a, b) => from.get(a.member) - from.get(b.member) || rank.get(a.cluster) - rank.get(b.cluster));
      flows.forEach((flow) => {
        const [start, end] = [places[k].get(flow.member), places[k + 1].get(flow.cluster)];
        const thick = flow.atoms * room / item.numbers.length;
        const [x, X] = [start.x + bar, end.x];
        const [y, Y, half] = [start.out, end.into, (start.x + bar + end.x) / 2];
        start.out += thick;
        end.into += thick;
        const path = `M${x},${y} C${half},${y} ${half},${Y} ${X},${Y} V${Y + thick} C${half},${Y + thick} ${half},${y + thick} ${x},${y + thick} Z`;
        picture.append(svg("path", { d: path, fill: start.node.color, "fill-opacity": 0.4, class: "flow" }, `${start.node.title.split(":")[0]} → ${end.node.name}: ${atomsOf(flow.atoms)}`));
      });
    });
    places.forEach((nodes, k) => {
      const heading = svg("text", { x: k * step, y: 12 });
      heading.textContent = k === 0 ? `${item.numbers.length} atoms` : `level ${k}`;
      picture.append(heading);
      nodes.forEach((place) => {
        picture.append(svg("rect", { x: place.x, y: place.y, width: bar, height: Math.max(place.height, 1), fill: place.node.color, class: "node" }, place.node.title));
        if (k === 0) return;
        const label = svg("text", { x: place.x + bar + 5, y: place.y + place.height / 2 + 4 });
        label.textContent = `${place.node.name} (${Number(place.node.size.toFixed(1))})`;
        picture.append(label);
      });
    });
    choose("tree").replaceChildren(picture);
  };

  const drawCell = (item) => {
    const add = (...vectors) => [0, 1, 2].map((axis) => vectors.reduce((sum, vector) => sum + vector[axis], 0));
    const point = ([x, y, z]) => ({ x, y, z });
    item.cell.forEach((edge, k) => {
      const [a, b] = item.cell.filter((_, other) => other !== k);
      [[0, 0, 0], a, b, add(a, b)].forEach((corner) => {
        viewer.addLine({ start: point(corner), end: point(add(corner, edge)), color: "#808890" });
      });
    });
  };

  const drawMolecule = (item) => {
    if (viewer === null) return;
    if (shown !== item) {
      viewer.removeAllShapes();
      stage.place(viewer, item, (atom) => symbol(item, atom));
      drawCell(item);
      viewer.zoomTo();
      shown = item;
    }
    stage.paint(viewer, painter(item), (atom) => { choose("hover").textContent = atom === null ? "" : describe(item, atom); });
  };

  function update() {
    const item = current();
    choose("hover").textContent = "";
    choose("meta").textContent = `${structures.length} ${structures.length === 1 ? "structure" : "structures"} · ${item.name}: ${item.numbers.length} atoms, ${signed(item.energy, 4)} eV`;
    drawColors(item);
    drawLegend(item);
    drawTree(item);
    drawEnergies(item);
    drawAtoms(item);
    drawMolecule(item);
  }

  const changeStructure = () => {
    const count = current().layers.length;
    const chosen = choose("layer").value === "" ? count - 1 : Number(choose("layer").value);
    stage.fillSelect(choose("layer"), current().layers.map((_, k) => `${k + 1} of ${count}`), chosen);
    choose("layers").style.display = count === 0 ? "none" : "";
    update();
  };

  const viewer = stage.open(choose("viewer"), choose("hint"));
  stage.fillSelect(choose("structure"), structures.map((item) => item.name), 0);
  choose("structure").addEventListener("change", changeStructure);
  choose("layer").addEventListener("change", update);
  choose("atoms").addEventListener("toggle", update);
  addEventListener("beforeprint", () => { if (viewer) choose("printed").src = viewer.pngURI(); });
  changeStructure();
  document.documentElement.dataset.view = viewer ? "drawn" : "no-webgl";
})();
