"use strict";

const MAX_ZOOM = 16;
const ZOOM_STEP = 2;
const PIXELS_FROM = 2; // Enlargement of the photo's pixels from which they are shown as squares.
const STEPS = {
  ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100,
};
const PANS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

class Viewer {
  constructor(photo) {
    this.photo = photo;
    this.stage = photo.querySelector(".stage");
    this.divider = photo.querySelector(".divider");
    this.output = photo.querySelector("output");
    this.pixels = Number(photo.querySelector(".picture").getAttribute("width")); // Width of the photo.
    this.at = 50; // Place of the line, in per cent of the width.
    this.zoom = 1; // 1: the photo fills the stage.
    this.x = this.y = 0; // Place of the photo's corner, in CSS pixels.
    this.pointers = new Map();

    photo.addEventListener("change", (event) => this.choose(event.target));
    photo.addEventListener("click", (event) => this.press(event.target.dataset.zoom));
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.down(event));
    this.stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.stage.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    new ResizeObserver(() => this.zoomTo(this.zoom)).observe(this.stage);
    for (const picture of photo.querySelectorAll(".picture")) this.watch(picture);
    for (const link of photo.querySelectorAll("[data-file]")) {
      link.href ||= this.layer(link.dataset.file).querySelector(".picture").src;
    }
    this.render();
  }

  layer(kind) {
    return this.stage.querySelector(`.layer[data-kind="${kind}"]`);
  }

  chosen(group) {
    return this.photo.querySelector(`[data-group="${group}"]:checked`)?.value ?? "off";
  }

  /* Show the state in the page. */
  render() {
    const sides = { left: this.chosen("left"), right: this.chosen("right") };
    const map = this.chosen("map");
    for (const layer of this.stage.querySelectorAll(".layer")) {
      for (const [side, kind] of Object.entries(sides)) layer.classList.toggle(side, layer.dataset.kind === kind);
    }
    for (const side of ["left", "right"]) {
      this.stage.querySelector(`.tag.${side}`).textContent = this.layer(sides[side]).dataset.name;
    }
    this.stage.dataset.map = map;
    for (const legend of this.photo.querySelectorAll(".legend")) legend.hidden = legend.dataset.map !== map;

    const share = this.zoom * this.stage.clientWidth / this.pixels;
    this.output.textContent = `${Math.round(100 * share)} %`;
    this.stage.classList.toggle("zoomed", this.zoom > 1);
    this.stage.classList.toggle("pixels", share >= PIXELS_FROM);
    const values = { "--at": `${this.at}%`, "--x": `${this.x}px`, "--y": `${this.y}px`, "--zoom": this.zoom };
    for (const [name, value] of Object.entries(values)) this.stage.style.setProperty(name, value);

    const [left, right] = [this.layer(sides.left).dataset.name, this.layer(sides.right).dataset.name];
    this.divider.setAttribute("aria-valuenow", Math.round(this.at));
    this.divider.setAttribute("aria-valuetext", `${Math.round(this.at)} % ${left}, the rest ${right}`);
  }

  /* A radio button has changed.  The map lies over SDL, so SDL is shown with it. */
  choose(input) {
    if (input.dataset.group === "map" && input.value !== "off") {
      const shown = ["left", "right"].some((side) => this.chosen(side) === "sdl");
      if (!shown) this.photo.querySelector('[data-group="right"][value="sdl"]').checked = true;
    }
    this.render();
  }

  slideTo(at) {
    this.at = clamp(at, 0, 100);
    this.render();
  }

  /* Zoom and keep one point of the stage, in CSS pixels, where it is: the line's middle unless it is given. */
  zoomTo(zoom, point = [this.stage.clientWidth * this.at / 100, this.stage.clientHeight / 2]) {
    const found = clamp(zoom, 1, MAX_ZOOM);
    const [x, y] = [this.x, this.y].map((corner, axis) => point[axis] - (point[axis] - corner) * found / this.zoom);
    this.panTo(x, y, found);
  }

  panTo(x, y, zoom = this.zoom) {
    this.zoom = zoom;
    this.x = clamp(x, this.stage.clientWidth * (1 - zoom), 0);
    this.y = clamp(y, this.stage.clientHeight * (1 - zoom), 0);
    this.render();
  }

  press(action) {
    if (action === "in") this.zoomTo(this.zoom * ZOOM_STEP);
    if (action === "out") this.zoomTo(this.zoom / ZOOM_STEP);
    if (action === "fit") this.zoomTo(1);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = { "+": "in", "=": "in", "-": "out", "0": "fit" }[event.key];
    if (action) this.press(action);
    else if (event.shiftKey && event.key in PANS) {
      const [x, y] = PANS[event.key];
      this.panTo(this.x + 40 * x, this.y + 40 * y);
    } else if (event.key in STEPS) this.slideTo(this.at + STEPS[event.key]);
    else return;
    event.preventDefault();
  }

  /* The wheel zooms if the picture was clicked, or with Ctrl.  Otherwise it scrolls the page. */
  wheel(event) {
    const zoom = clamp(this.zoom * Math.exp(-event.deltaY / 300), 1, MAX_ZOOM);
    const wanted = this.stage.contains(document.activeElement) && zoom !== this.zoom;
    if (!event.ctrlKey && !wanted) return;
    event.preventDefault();
    this.zoomTo(zoom, this.place(event));
  }

  place(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.divider.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    this.slides = this.zoom === 1 || this.divider.contains(event.target);
    this.pointers.set(event.pointerId, this.place(event));
    // A finger may be about to scroll the page, so the line follows it only when it moves sideways.
    if (this.slides && event.pointerType !== "touch") this.slideTo(100 * this.place(event)[0] / this.stage.clientWidth);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const place = this.place(event);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, place);
    if (other) {
      const spread = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
      this.zoomTo(this.zoom * spread(place) / spread(before), [0, 1].map((axis) => (place[axis] + other[axis]) / 2));
    } else if (this.slides) this.slideTo(100 * place[0] / this.stage.clientWidth);
    else this.panTo(this.x + place[0] - before[0], this.y + place[1] - before[1]);
  }

  /* A browser without AVIF, for example, says so and takes the choice away. */
  watch(picture) {
    const failed = () => {
      const layer = picture.closest(".layer");
      for (const input of this.photo.querySelectorAll(`input[value="${layer.dataset.kind}"]`)) {
        input.disabled = true;
        input.parentElement.title = "This browser cannot show the format";
      }
    };
    picture.addEventListener("error", failed);
    if (picture.complete && !picture.naturalWidth) failed();
  }
}

/* The button follows the system until it is pressed. */
function theme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const show = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    button.setAttribute("aria-pressed", dark);
    return dark;
  };
  system.addEventListener("change", show);
  button.addEventListener("click", () => {
    root.dataset.theme = show() ? "light" : "dark";
    show();
  });
  show();
}

for (const photo of document.querySelectorAll(".photo")) new Viewer(photo);
theme(document.querySelector("#theme"));
