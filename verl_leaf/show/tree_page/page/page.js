"use strict";
(() => {
  const { html, render, useState, useEffect, useRef } = htmPreact;
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const FOLD = 150; // characters of a branch from which on it folds
  const STRONG = 2; // |advantage| that has the full colour
  const VIEWS = Object.fromEntries(Object.entries(DATA.views).map(([key, [name]]) => [key, name]));

  const signed = (x) => (Math.abs(x) < 0.005 ? "" : x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);
  const exact = (x) => (x < -5e-5 ? "−" : "") + Math.abs(x).toFixed(4);
  const nats = (x) => (x === null ? "∞" : x.toFixed(3));
  const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;

  // ----- the address: which step, prompt, view and order ------------------------------------------------------------
  function place() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const step = DATA.steps.find((s) => String(s.step) === asked.get("step")) || DATA.steps[0];
    const sort = asked.get("sort") === "trace" ? "trace" : "change";
    const prompts = [...step.prompts].sort(sort === "trace" ? (a, b) => a.id - b.id : (a, b) => b.change - a.change);
    const prompt = prompts.find((p) => String(p.id) === asked.get("prompt")) || prompts[0];
    return { step, prompts, prompt, sort, view: Object.hasOwn(VIEWS, asked.get("view")) ? asked.get("view") : "leaf" };
  }
  const address = (here, change) => {
    const to = { step: here.step.step, prompt: here.prompt.id, view: here.view, sort: here.sort, ...change };
    return "#" + new URLSearchParams(to);
  };
  const go = (change) => { location.hash = address(place(), change); };
  function turn(list, current, by, end = current) {
    const next = list[list.indexOf(current) + by];
    return next === undefined ? end : next;
  }

  const KEYS = [
    ["n", "next prompt", (here) => go({ prompt: turn(here.prompts, here.prompt, 1).id })],
    ["p", "previous prompt", (here) => go({ prompt: turn(here.prompts, here.prompt, -1).id })],
    [".", "next step", (here) => go({ step: turn(DATA.steps, here.step, 1).step })],
    [",", "previous step", (here) => go({ step: turn(DATA.steps, here.step, -1).step })],
    ["g", "LEAF or GRPO", (here) => go({ view: here.view === "grpo" ? "leaf" : "grpo" })],
    ["x", "next estimator", (here) => go({ view: turn(Object.keys(VIEWS), here.view, 1, "leaf") })],
    ["s", "order of prompts", (here) => go({ sort: here.sort === "change" ? "trace" : "change" })],
  ];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("audio")) return;
    const found = KEYS.find(([key]) => key === event.key);
    if (found) { event.preventDefault(); found[2](place()); }
  });

  // ----- parts ------------------------------------------------------------------------------------------------------
  const tint = (x) => {
    const share = Math.min(Math.abs(x) / STRONG, 1) * 60;
    const side = x < 0 ? "--minus" : "--plus";
    return {
      "--tint": `color-mix(in srgb, var(${side}) ${share.toFixed(0)}%, var(--bg))`,
      "--tint-strong": `color-mix(in srgb, var(${side}) ${Math.min(share * 1.6, 100).toFixed(0)}%, var(--line))`,
    };
  };

  // Tokens as text: pieces between marks stay one text, so that scripts that join letters do.
  function Words({ pieces, start, tool = [], marks = [] }) {
    const parts = [];
    pieces.forEach((piece, offset) => {
      const at = start + offset;
      const mark = marks.find((b) => b.position === at);
      if (mark) parts.push({ mark });
      const isTool = tool.includes(at);
      const last = parts[parts.length - 1];
      if (last && !last.mark && last.isTool === isTool) last.text += piece;
      else parts.push({ text: piece, isTool });
    });
    if (!pieces.join("").trim()) {
      const name = pieces.join("") ? "white space" : "part of a character";
      return html`<span class="dim">${pieces.length ? `⟨${name}⟩` : "⟨nothing⟩"}</span>`;
    }
    return parts.map((part) => part.mark
      ? html`<span class="mark" title="A boundary was selected here and did not fire" aria-label="boundary that did not fire">◇</span>`
      : html`<span class=${part.isTool ? "tool" : ""}>${part.text}</span>`);
  }

  function Branch({ prompt, edge, view, level, position, siblings, focused, focus, hover }) {
    const [open, setOpen] = useState(false);
    const path = focus.path(edge);
    const text = edge.pieces.join("");
    const long = text.length > FOLD;
    const marks = prompt.boundaries.filter((b) => !b.fired && edge.responses.includes(b.response));
    const count = edge.responses.length;
    const label = `${text}. ${plural(count, "response")}. ${Object.keys(VIEWS).map((key) => `${VIEWS[key]} ${signed(edge.advantages[key])}`).join(", ")}.`
      + edge.ends.map((i) => ` Response ${i + 1} ends, reward ${exact(prompt.responses[i].reward)}.`).join("");
    return html`
      <li role="treeitem" aria-label=${label} aria-level=${level} aria-posinset=${position} aria-setsize=${siblings}
          aria-expanded=${edge.children.length ? "true" : null} aria-selected=${focused === path ? "true" : "false"}
          tabindex=${focused === path ? 0 : -1} data-path=${path} style=${{ "--n": count }}
          onFocus=${(event) => { event.stopPropagation(); focus.on(path); }}
          onKeyDown=${(event) => {
            if (event.target === event.currentTarget && event.key === "Enter") { event.stopPropagation(); setOpen(!open); }
          }}>
        <div class="edge" style=${tint(edge.advantages[view])} onMouseEnter=${() => hover(edge)} onMouseLeave=${() => hover(null)}
             onClick=${() => focus.to(path)}>
          <span class=${long && !open ? "text folded" : "text"} dir="auto">
            <${Words} pieces=${edge.pieces} start=${edge.start} tool=${edge.tool} marks=${marks} /></span>
          ${long && html`<button tabindex="-1" onClick=${() => setOpen(!open)}>${open ? "fold" : `all ${text.length} characters`}</button>`}
          <div class="paid">
            ${Object.keys(VIEWS).map((key) => key === view ? html`<b>${signed(edge.advantages[key])}</b> `
              : ["leaf", "grpo"].includes(key) && html`<span class="dim">${VIEWS[key]} ${signed(edge.advantages[key])} </span>`)}
            ${count > 1 && html`<span class="dim"> ×${count}</span>`}
          </div>
        </div>
        ${edge.node !== null && html`<span class="node" title="A node: the boundary fired here">◆<br />${prompt.nodes[edge.node].value.toFixed(2)}</span>`}
        ${edge.ends.length > 0 && html`<span class="leaf">${edge.ends.map((i) => html`<div>${prompt.responses[i].reward.toFixed(3)} <span class="dim">#${i + 1}</span></div>`)}</span>`}
        ${edge.children.length > 0 && html`<span class="way" style=${{ "--n": edge.children.reduce((n, c) => n + c.responses.length, 0) }}></span>
          <ul role="group">${edge.children.map((child, index) => html`<${Branch} key=${index} ...${{ prompt, view, focused, focus, hover }}
            edge=${child} level=${level + 1} position=${index + 1} siblings=${edge.children.length} />`)}</ul>`}
      </li>`;
  }

  function Tree({ prompt, view }) {
    const [focused, setFocused] = useState("0");
    const [hovered, setHovered] = useState(null);
    const root = useRef();
    const at = (path) => path.split(".").map(Number).reduce((found, i) => ({ ...found.children[i], raw: found.children[i] }), { children: prompt.edges });
    const paths = new Map();
    (function walk(edges, before) {
      edges.forEach((edge, i) => { paths.set(edge, before + i); walk(edge.children, `${before}${i}.`); });
    })(prompt.edges, "");
    const order = [...paths.values()];
    const focus = {
      path: (edge) => paths.get(edge),
      on: (path) => setFocused(path),
      to: (path) => root.current.querySelector(`[data-path="${path}"]`).focus(),
    };
    const keys = (event) => {
      const next = {
        ArrowDown: () => order[order.indexOf(focused) + 1],
        ArrowUp: () => order[order.indexOf(focused) - 1],
        ArrowRight: () => order.find((path) => path === `${focused}.0`),
        ArrowLeft: () => focused.split(".").slice(0, -1).join("."),
        Home: () => order[0],
        End: () => order[order.length - 1],
      }[event.key];
      if (!next || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (next()) focus.to(next());
    };
    const edge = hovered || at(focused).raw;
    return html`
      <${Details} prompt=${prompt} edge=${edge} />
      <div class="scroll"><ul class="tree" role="tree" ref=${root} aria-label="Responses, from their first token to their rewards" onKeyDown=${keys}>
        ${prompt.edges.map((edge, index) => html`<${Branch} key=${index} ...${{ prompt, view, edge, focused, focus }} hover=${setHovered}
          level=${1} position=${index + 1} siblings=${prompt.edges.length} />`)}
      </ul></div>`;
  }

  // One line for responses that are paid by the same span.
  function Details({ prompt, edge }) {
    const lines = [];
    edge.responses.forEach((index, k) => {
      const response = prompt.responses[index];
      const span = edge.spans[k] === null ? null : response.spans[edge.spans[k]];
      const same = span && span.node !== null && lines.find((line) => line.span.node === span.node);
      if (same) same.responses.push(index);
      else if (span) lines.push({ responses: [index], span, previous: edge.spans[k] ? response.spans[edge.spans[k] - 1].node : null });
    });
    const node = (i) => prompt.nodes[i];
    return html`<div class="details" role="region" aria-label="Numbers of the branch" tabindex="0">
      <p><span class="text" dir="auto"><${Words} pieces=${edge.pieces} start=${edge.start} tool=${edge.tool} /></span>
        <span class="dim"> · tokens ${edge.start} to ${edge.end - 1} · ${plural(edge.responses.length, "response")} · root value V₀ ${exact(prompt.rootValue)}
          · means of the branch: ${Object.keys(VIEWS).map((key) => `${VIEWS[key]} ${exact(edge.advantages[key])}`).join(", ")}</span></p>
      <table><thead><tr><th>response</th><th>surprisal of the first token</th><th>span</th><th>ends at</th><th>value V</th><th>n</th>
        <th>global V − V₀</th><th>local V − V(u)</th><th>credit A</th><th>LEAF advantage</th><th>GRPO advantage</th></tr></thead><tbody>
      ${lines.map(({ responses, span, previous }) => {
        const value = span.node === null ? prompt.responses[responses[0]].reward : node(span.node).value;
        const before = previous === null ? prompt.rootValue : node(previous).value;
        return html`<tr><td>${responses.map((i) => i + 1).join(", ")}</td>
          <td class="list">${responses.map((i) => nats(prompt.responses[i].surprisal[edge.start])).join(", ")}</td>
          <td>${span.start}–${span.end - 1}</td><td>${span.node === null ? "its end" : `node ${span.node + 1}`}</td>
          <td>${exact(value)}</td><td>${span.node === null ? 1 : node(span.node).responses.length}</td>
          <td>${exact(value - prompt.rootValue)}</td><td>${exact(value - before)}</td>
          <td>${exact(span.credit)}</td><td>${exact(span.advantage)}</td>
          <td class="list">${responses.map((i) => exact(prompt.responses[i].grpo)).join(", ")}</td></tr>`;
      })}</tbody></table></div>`;
  }

  function tokens(prompt, index) {
    const found = [];
    (function walk(edges) {
      const edge = edges.find((e) => e.responses.includes(index));
      if (edge) { found.push(...edge.pieces); walk(edge.children); }
    })(prompt.edges);
    return found;
  }

  function Strip({ prompt, index, highest, tell }) {
    const response = prompt.responses[index];
    const [open, setOpen] = useState(false);
    const pieces = tokens(prompt, index);
    const text = pieces.join("");
    const most = response.surprisal.reduce((best, s, i) => ((s ?? Infinity) > (response.surprisal[best] ?? Infinity) ? i : best), 0);
    return html`<section class="response" aria-label=${`Response ${index + 1}`}>
      <div><b>#${index + 1}</b> <span class="dim">reward</span> ${response.reward.toFixed(3)}
        <span class="dim"> · spans ${response.spans.map((s) => signed(s.advantage)).join(", ")} · GRPO ${signed(response.grpo)}</span></div>
      <div class=${text.length > 2 * FOLD && !open ? "text folded" : "text"} dir="auto">${text}</div>
      ${text.length > 2 * FOLD && html`<button onClick=${() => setOpen(!open)}>${open ? "fold" : `all ${text.length} characters`}</button>`}
      <div class="strip" role="img" aria-label=${`Surprisal of ${plural(pieces.length, "token")}; highest at token ${most}, “${pieces[most]}”, ${nats(response.surprisal[most] ?? null)} nats`}>
        ${response.surprisal.map((s, at) => {
          const boundary = prompt.boundaries.findIndex((b) => b.position === at);
          const cuts = boundary >= 0 && prompt.nodes.some((n) => n.boundary === boundary && n.responses.includes(index));
          const kind = boundary < 0 ? "" : cuts ? " cut" : " cut idle";
          return html`<span class=${"bar" + kind + (s === null ? " infinite" : "")} style=${{ "--h": `${s === null ? 100 : (100 * s) / highest}%` }}
            onMouseEnter=${() => tell(`#${index + 1}, token ${at}: “${pieces[at]}”, surprisal ${nats(s)} nats`
              + (boundary < 0 ? "" : cuts ? " · boundary: this response is cut here" : " · boundary: this response has no node here"))}><i></i></span>`;
        })}</div></section>`;
  }

  function Strips({ prompt }) {
    const [told, tell] = useState("");
    const highest = Math.max(...prompt.responses.flatMap((r) => r.surprisal.filter((s) => s !== null)), 1e-9);
    return html`<h2>Surprisal of every token</h2>
      <div class="dim">A bar per token, up to ${highest.toFixed(2)} nats. A line stands at each selected boundary: solid where it cuts the response, dotted where the response has no node.</div>
      <div class="readout">${told || "Point at a bar to see its token."}</div>
      ${prompt.responses.map((_, index) => html`<${Strip} key=${index} ...${{ prompt, index, highest, tell }} />`)}`;
  }

  function Audio({ clip }) {
    const name = clip.name ? clip.name.split(/[\\/]/).pop() : "";
    return html`<div>${clip.url ? html`<audio controls preload="none" src=${clip.url} aria-label=${`Audio ${name}`}></audio> ` : ""}
      <span class="dim text">${name} ${clip.note || ""}</span></div>`;
  }

  function Page() {
    const [here, setHere] = useState(place);
    useEffect(() => {
      const moved = () => setHere(place());
      addEventListener("hashchange", moved);
      return () => removeEventListener("hashchange", moved);
    }, []);
    const { step, prompts, prompt, view, sort } = here;
    const one = `${step.step}/${prompt.id}`;
    const idle = prompt.boundaries.filter((b) => !b.fired).length;
    return html`
      <header><h1>${DATA.title}: LEAF trees</h1>
        <div class="steps" role="navigation" aria-label="Steps"><span class="dim">step</span>
          ${DATA.steps.map((s) => html`<a href=${address(here, { step: s.step, prompt: "" })} aria-current=${s === step ? "true" : null}>${s.step}</a>`)}</div>
      </header>
      <div class="layout">
        <nav aria-label="Prompts of the step">
          <button onClick=${() => go({ sort: sort === "change" ? "trace" : "change" })}>${sort === "change" ? "changed most first" : "in the order of the trace"}</button>
          <ol>${prompts.map((p) => html`<li key=${p.id}><a href=${address(here, { prompt: p.id })} aria-current=${p === prompt ? "true" : null}>
            <span class="text words" dir="auto">${p.reference}</span><span class="number">prompt ${p.id} · |LEAF − GRPO| ${p.change.toFixed(2)}</span></a></li>`)}</ol>
        </nav>
        <main>
          <dl class="about">
            ${prompt.audio.length > 0 && html`<dt>audio</dt><dd>${prompt.audio.map((number) => html`<${Audio} key=${number} clip=${DATA.clips[number]} />`)}</dd>`}
            <dt>prompt</dt><dd class="text" dir="auto">${prompt.prompt}</dd>
            <dt>reference</dt><dd class="text" dir="auto">${prompt.reference}</dd>
            <dt>data</dt><dd class="text">${prompt.source}</dd>
            <dt>boundaries</dt><dd>${prompt.boundaries.length ? prompt.boundaries.map((b) => `token ${b.position} ${b.fired ? (b.usable ? "◆ usable" : "◆ rewards equal") : "◇ did not fire"} (put there by #${b.response + 1})`).join("; ") : "none"}</dd>
            <dt>first fork</dt><dd>${prompt.early === null ? "says nothing: all rewards are equal, or no responses go on together after it"
              : `settles ${exact(prompt.early)} of what rewards differ by (1: all of it; 0 or less: none)`}</dd>
          </dl>
          <div class="controls">
            ${Object.entries(VIEWS).map(([key, name]) => html`<button key=${key} aria-pressed=${view === key} onClick=${() => go({ view: key })}>${name}</button>`)}
            <span class="key dim">−${STRONG} <span class="ramp" role="img" aria-label="orange is negative, blue is positive"></span> +${STRONG} advantage</span>
            <span class="key dim">◆ node and its value${idle ? "; ◇ boundary that did not fire" : ""}</span>
          </div>
          <p class="hidden" role="status">Step ${step.step}, prompt ${prompt.id}, ${VIEWS[view]}</p>
          <${Tree} key=${one} prompt=${prompt} view=${view} />
          <${Strips} key=${`strips ${one}`} prompt=${prompt} />
          <p class="notes">${KEYS.map(([key, does]) => html`<kbd>${key}</kbd> ${does} · `)} in the tree: arrows, <kbd>Enter</kbd> unfolds a long branch.
            Numbers of branches are means over the responses that pass. ${Object.values(DATA.views).map(([name, what]) => what && `${name}: ${what} `)}</p>
          ${[["Left out", DATA.left_out], ["Could not be read", DATA.skipped]].map(([title, list]) => list.length > 0
            && html`<p class="notes">${title}: <span class="text">${list.join("; ")}</span></p>`)}
        </main>
      </div>`;
  }

  const app = document.getElementById("app");
  app.textContent = "";
  render(html`<${Page} />`, app);
})();
