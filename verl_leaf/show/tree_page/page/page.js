"use strict";
(() => {
  const { html, render, useState, useEffect, useRef } = htmPreact;
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const FOLD = 150; // characters of a branch from which on it folds
  const STRONG = 2; // |advantage| that has the full colour
  const END = /^<[^<>\s]+>$/; // what a token that ends a text looks like: <|im_end|>, </s>
  const WIDE = matchMedia("(min-width: 48rem)"); // as in page.css
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
  function Words({ pieces, start = 0, tool = [], marks = [], ends = false }) {
    const parts = [];
    pieces.forEach((piece, offset) => {
      const at = start + offset;
      const mark = marks.find((b) => b.position === at);
      if (mark) parts.push({ mark });
      const kind = tool.includes(at) ? "tool" : ends && offset === pieces.length - 1 && END.test(piece) ? "end" : "";
      const last = parts[parts.length - 1];
      if (last && !last.mark && last.kind === kind) last.text += piece;
      else parts.push({ text: piece, kind });
    });
    if (!pieces.join("").trim()) {
      const name = pieces.join("") ? "white space" : "part of a character";
      return html`<span class="dim">${pieces.length ? `⟨${name}⟩` : "⟨nothing⟩"}</span>`;
    }
    return parts.map((part) => part.mark
      ? html`<span class="mark" title="A boundary was selected here and did not fire" aria-label="boundary that did not fire">◇</span>`
      : html`<span class=${part.kind}>${part.text}</span>`);
  }

  // A text that is cut to a line or a few, and a button that unfolds it if it is longer than `most` characters.
  function Fold({ length, most, folded = "folded", tabindex = 0, open, turn, children }) {
    return html`<div class=${length > most && !open ? `text ${folded}` : "text"} dir="auto">${children}</div>
      ${length > most && html`<button tabindex=${tabindex} aria-expanded=${open ? "true" : "false"} onClick=${turn}>${open ? "fold" : `all ${length} characters`}</button>`}`;
  }
  function Folding(props) {
    const [open, setOpen] = useState(false);
    return html`<${Fold} ...${props} open=${open} turn=${() => setOpen(!open)} />`;
  }

  function Branch({ prompt, edge, view, level, position, siblings, focused, focus, hover }) {
    const [open, setOpen] = useState(false);
    const path = focus.path(edge);
    const text = edge.pieces.join("");
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
          <${Fold} length=${text.length} most=${FOLD} tabindex=${-1} open=${open} turn=${() => setOpen(!open)}>
            <${Words} pieces=${edge.pieces} start=${edge.start} tool=${edge.tool} marks=${marks} ends=${edge.ends.length > 0} /><//>
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
    return html`<div>
      <${Scroll}><ul class="tree" role="tree" ref=${root} aria-label="Responses, from their first token to their rewards" onKeyDown=${keys}>
        ${prompt.edges.map((edge, index) => html`<${Branch} key=${index} ...${{ prompt, view, edge, focused, focus }} hover=${setHovered}
          level=${1} position=${index + 1} siblings=${prompt.edges.length} />`)}
      </ul><//>
      <${Details} prompt=${prompt} edge=${edge} /></div>`;
  }

  // What is wider than the page says so.
  function Scroll({ children }) {
    const box = useRef();
    const [more, setMore] = useState(false);
    const look = () => setMore(box.current.scrollWidth - box.current.clientWidth - box.current.scrollLeft > 1);
    useEffect(() => {
      const watch = new ResizeObserver(look);
      watch.observe(box.current);
      watch.observe(box.current.firstElementChild);
      return () => watch.disconnect();
    }, []);
    const on = () => box.current.scrollBy({ left: box.current.clientWidth * 0.8, behavior: "smooth" });
    return html`<div class="wide"><div class="scroll" ref=${box} onScroll=${look}>${children}</div>
      ${more && html`<button class="more" onClick=${on}>more →</button>`}</div>`;
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
    const rows = lines.map(({ responses, span, previous }) => {
      const node = span.node === null ? null : prompt.nodes[span.node];
      const value = node ? node.value : prompt.responses[responses[0]].reward;
      const list = (of) => responses.map(of).join(", ");
      return [
        ["response", list((i) => i + 1)],
        ["surprisal of the first token", list((i) => nats(prompt.responses[i].surprisal[edge.start]))],
        ["span", `${span.start}–${span.end - 1}`],
        ["ends at", node ? `node ${span.node + 1}` : "its end"],
        ["value V", exact(value)],
        ["n", node ? node.responses.length : 1],
        ["global V − V₀", exact(value - prompt.rootValue)],
        ["local V − V(u)", exact(value - (previous === null ? prompt.rootValue : prompt.nodes[previous].value))],
        ["credit A", exact(span.credit)],
        ["LEAF advantage", exact(span.advantage)],
        ["GRPO advantage", list((i) => exact(prompt.responses[i].grpo))],
      ];
    });
    return html`<div class="details" role="region" aria-label="Numbers of the branch" tabindex="0">
      <div class="text line" dir="auto"><${Words} pieces=${edge.pieces} start=${edge.start} tool=${edge.tool} ends=${edge.ends.length > 0} /></div>
      <p class="dim">tokens ${edge.start} to ${edge.end - 1} · ${plural(edge.responses.length, "response")} · root value V₀ ${exact(prompt.rootValue)} ·
        means of the branch: ${Object.keys(VIEWS).map((key) => `${VIEWS[key]} ${exact(edge.advantages[key])}`).join(", ")}</p>
      ${rows.length > 0 && html`<table><thead><tr>${rows[0].map(([name]) => html`<th>${name}</th>`)}</tr></thead><tbody>
        ${rows.map((cells) => html`<tr>${cells.map(([name, value]) => html`<td data-name=${name} class=${String(value).includes(",") ? "list" : ""}>${value}</td>`)}</tr>`)}</tbody></table>`}</div>`;
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
    const pieces = tokens(prompt, index);
    const most = response.surprisal.reduce((best, s, i) => ((s ?? Infinity) > (response.surprisal[best] ?? Infinity) ? i : best), 0);
    return html`<section class="response" aria-label=${`Response ${index + 1}`}>
      <div><b>#${index + 1}</b> <span class="dim">reward</span> ${response.reward.toFixed(3)}
        <span class="dim"> · spans ${response.spans.map((s) => signed(s.advantage)).join(", ")} · GRPO ${signed(response.grpo)}</span></div>
      <${Folding} length=${pieces.join("").length} most=${2 * FOLD}><${Words} pieces=${pieces} ends=${true} /><//>
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

  function spread(prompt) {
    const rewards = prompt.responses.map((r) => r.reward);
    return `rewards ${Math.min(...rewards).toFixed(2)} to ${Math.max(...rewards).toFixed(2)}`;
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
        <nav aria-label="Prompts of the step"><details open=${WIDE.matches}><summary>${plural(prompts.length, "prompt")} of step ${step.step}</summary>
          <button onClick=${() => go({ sort: sort === "change" ? "trace" : "change" })}>${sort === "change" ? "changed most first" : "in the order of the trace"}</button>
          <ol>${prompts.map((p) => html`<li key=${p.id}><a href=${address(here, { prompt: p.id })} aria-current=${p === prompt ? "true" : null}
              onClick=${(event) => { event.currentTarget.closest("details").open = WIDE.matches; }}>
            <span class="text words" dir="auto">${p.reference}</span>
            <span class="number">prompt ${p.id} · |LEAF − GRPO| ${p.change.toFixed(2)} · ${spread(p)}</span></a></li>`)}</ol></details>
        </nav>
        <main>
          <dl class="about">
            ${prompt.audio.length > 0 && html`<dt>audio</dt><dd>${prompt.audio.map((number) => html`<${Audio} key=${number} clip=${DATA.clips[number]} />`)}</dd>`}
            <dt>prompt</dt><dd class="one"><${Folding} key=${one} folded="line" length=${prompt.prompt.length} most=${40}>${prompt.prompt}<//></dd>
            <dt>reference</dt><dd class="text" dir="auto">${prompt.reference}</dd>
          </dl>
          <div class="controls">
            ${Object.entries(VIEWS).map(([key, name]) => html`<button key=${key} aria-pressed=${view === key} onClick=${() => go({ view: key })}>${name}</button>`)}
          </div>
          <p class="hidden" role="status">Step ${step.step}, prompt ${prompt.id}, ${VIEWS[view]}</p>
          <${Tree} key=${one} prompt=${prompt} view=${view} />
          <div class="controls">
            <span class="key dim">−${STRONG} <span class="ramp" role="img" aria-label="orange is negative, blue is positive"></span> +${STRONG} advantage</span>
            <span class="key dim">◆ node and its value${idle ? "; ◇ boundary that did not fire" : ""}</span>
          </div>
          <dl class="about">
            <dt>boundaries</dt><dd>${prompt.boundaries.length ? prompt.boundaries.map((b) => `token ${b.position} ${b.fired ? (b.usable ? "◆ usable" : "◆ rewards equal") : "◇ did not fire"} (put there by #${b.response + 1})`).join("; ") : "none"}</dd>
            <dt>first fork</dt><dd>${prompt.early === null ? "says nothing: all rewards are equal, or no responses go on together after it"
              : `settles ${exact(prompt.early)} of what rewards differ by (1: all of it; 0 or less: none)`}</dd>
            <dt>data</dt><dd class="text">${prompt.source}</dd>
          </dl>
          <${Strips} key=${`strips ${one}`} prompt=${prompt} />
          <p class="notes">${KEYS.map(([key, does]) => html`<kbd>${key}</kbd> ${does} · `)} in the tree: arrows, <kbd>Enter</kbd> unfolds a long branch.
            Numbers of branches are means over the responses that pass. ${Object.values(DATA.views).filter(([, what]) => what).map(([name, what]) => `${name}: ${what.replace(/\.$/, "")}`).join("; ")}</p>
          ${[["Left out", DATA.left_out], ["Could not be read", DATA.skipped]].map(([title, list]) => list.length > 0
            && html`<p class="notes">${title}: <span class="text">${list.join("; ")}</span></p>`)}
        </main>
      </div>`;
  }

  const app = document.getElementById("app");
  app.textContent = "";
  render(html`<${Page} />`, app);
})();
