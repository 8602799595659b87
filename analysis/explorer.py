"""Sliders over the landscape and over a live bandit, in JupyterLab: `Explorer().widget()`, or `.static()` pictures.

Axes, ticks and legend are drawn once for each scale and kept as a bitmap; a slider draws only the lines over it,
which keeps it under 0.3 s.
"""

import io
import math
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from analysis import style
from analysis.bandit import Setting, run
from analysis.landscape import ratio_grid, score_norm, trust_region_of, weigh
from dgpo import methods

KEYS = ("pg", "dgpo", "grpo", "cispo", "gppo", "ce_gppo", "aspo")
SPACES = {"on ∇log π": "w_log", "on ∇π (units of 1/π_old)": "gate", "on the logits": "logit"}
LIVE = ("dgpo", "grpo", "gppo")


@dataclass(frozen=True)
class Dials:
    """What the sliders hold. c is the dual clip of gppo, ce_gppo and aspo; β scales CE-GPPO's left boundary."""

    eps_low: float = 0.2
    eps_high: float = 0.2
    n: float = 1.0
    m: float = 2.0
    beta: float = 0.75
    c: float = 10.0
    pi_old: float = 0.05
    sign: int = -1
    space: str = "w_log"
    log: bool = True

    def methods(self, keys=KEYS) -> list:
        """The methods at these dials; ValueError from the method itself where a value is out of its range."""
        named = {"eps_low": self.eps_low, "eps_high": self.eps_high, "n": self.n, "m": self.m}
        named |= {"beta_low": self.beta, "dual_clip": self.c}
        built = []
        for key in keys:
            allowed = methods.get(key).params()
            own = {k: v for k, v in named.items() if k in allowed and not (key == "grpo" and k == "dual_clip")}
            built.append(methods.get(key, **own))
        return built


class Picture:
    """One figure whose axes are drawn once per `scale` and whose lines are drawn over that bitmap."""

    def __init__(self, panels, width=4.6, height=3.4, dpi=80):
        with style.figure_style():
            self.figure = Figure(figsize=(width * panels, height), dpi=dpi)
            self.canvas = FigureCanvasAgg(self.figure)
            self.axes = self.figure.subplots(1, panels, squeeze=False)[0]
            left = 0.62 / (width * panels) + 0.03
            self.figure.subplots_adjust(left=left, right=0.985, top=0.9, bottom=0.29, wspace=0.26)
        self.moving, self.scale, self.bitmap = [], None, None

    def line(self, ax, key):
        self.moving.append((ax, ax.plot([], [], animated=True, **style.line(key))[0]))
        return self.moving[-1][1]

    def legend(self, axis, columns):
        handles = axis.get_legend_handles_labels()
        legend = self.figure.legend(*handles, loc="lower center", ncols=columns, handlelength=3, frameon=False)
        for handle in filter(None, legend.legend_handles):
            handle.set_animated(False)

    def png(self, scale=()) -> bytes:
        """The PNG; `scale` is whatever the axes depend on."""
        if self.bitmap is None or scale != self.scale:
            self.canvas.draw()
            self.scale, self.bitmap = scale, self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self.bitmap)
        for ax, artist in self.moving:
            ax.draw_artist(artist)
        out = io.BytesIO()
        self.canvas_png(out)
        return out.getvalue()

    def canvas_png(self, out):
        # canvas.print_png would draw everything anew
        imsave(out, np.asarray(self.canvas.buffer_rgba()), format="png", pil_kwargs={"compress_level": 1})


class Landscape(Picture):
    """The weight of every method over the ratio."""

    def __init__(self):
        super().__init__(1, width=7.2, height=4.2)
        (ax,) = self.axes
        self.band = ax.axvspan(0.8, 1.2, color="#000000", alpha=0.06, linewidth=0, animated=True)
        self.moving.append((ax, self.band))
        self.lines = {k: self.line(ax, k) for k in KEYS}
        ax.set_xlabel("ratio r = π/π_old")
        self.legend(ax, 4)

    def draw(self, dials: Dials) -> bytes:
        (ax,), top = self.axes, 1 / dials.pi_old
        for key, method in zip(KEYS, dials.methods(), strict=True):
            low, high = trust_region_of(method)
            ratio = ratio_grid(dials.pi_old, points=161, edges=(1 - low, 1 + high))
            w = weigh(method, np.log(ratio), dials.sign, dials.pi_old)
            y = {"w_log": w, "gate": w / ratio, "logit": np.abs(w) * score_norm(np.minimum(ratio * dials.pi_old, 1))}
            self.lines[key].set_data(ratio, y[dials.space])
        self.band.set_x(1 - dials.eps_low)
        self.band.set_width(dials.eps_low + dials.eps_high)
        scale = (dials.log, dials.space, dials.sign, dials.pi_old)
        if scale != self.scale:
            ax.set_xscale("log" if dials.log else "linear")
            ax.set_xlim((0.01, top) if dials.log else (0, min(top, 5)))
            ax.set_yscale("symlog", linthresh=1e-4, linscale=0.5) if dials.log else ax.set_yscale("linear")
            most = {"w_log": top, "gate": 200, "logit": max(top / 4, 10)}[dials.space]
            ax.set_ylim(0, 1.5 * most if dials.log else 4)
            name = next(k for k, v in SPACES.items() if v == dials.space)
            ax.set_title(f"weight {name},  A {'>' if dials.sign > 0 else '<'} 0,  π_old = {dials.pi_old:.3g}")
        return self.png(scale)


class Live(Picture):
    """A bandit learned on the spot by three methods: entropy and probability of the best arm."""

    metrics = ("entropy", "p_best")

    def __init__(self, setting=None, seeds=12, steps=24):
        super().__init__(2)
        self.lines = {}
        self.setting = setting or Setting(arms=16, p_best=0.02, lr=2.0, groups=1)
        self.seeds, self.steps = seeds, steps
        labels = {"entropy": "entropy (nats)", "p_best": "probability of the best arm"}
        for ax, metric in zip(self.axes, self.metrics, strict=True):
            self.lines |= {(metric, k): self.line(ax, k) for k in LIVE}
            ax.set(xlabel="step", ylabel=labels[metric], xlim=(1, steps))
        self.axes[0].set_ylim(0, math.log(self.setting.arms) * 1.05)
        self.axes[1].set_ylim(0, 1.02)
        self.figure.suptitle(f"live bandit: {self.setting.arms} arms, {seeds} seeds, mean", fontsize=11)
        self.legend(self.axes[0], len(LIVE))

    def draw(self, dials: Dials) -> bytes:
        found = run(dials.methods(LIVE), self.setting, seeds=self.seeds, steps=self.steps, points=8)
        for metric in self.metrics:
            for i, key in enumerate(LIVE):
                self.lines[metric, key].set_data(found.step, found.data[metric][i, 0].mean(0))
        return self.png()


class Explorer:
    """The two pictures and their sliders. `widget()` needs ipywidgets; `update(n=2)` does what a slider does."""

    def __init__(self, dials: Dials | None = None, **live):
        self.dials, self.landscape, self.live = dials or Dials(), Landscape(), Live(**live)

    def pngs(self) -> tuple[bytes, bytes]:
        return self.landscape.draw(self.dials), self.live.draw(self.dials)

    def update(self, **changed) -> tuple[bytes, bytes]:
        self.dials = replace(self.dials, **changed)
        return self.pngs()

    def static(self):
        """Both pictures as PNG images for a notebook that runs without a browser."""
        from IPython.display import Image, display

        for png in self.pngs():
            display(Image(png))

    def widget(self):
        """Sliders beside the pictures; a box of ipywidgets."""
        import ipywidgets as w

        def slider(name, low, high, step, text, log=False):
            kind = w.FloatLogSlider if log else w.FloatSlider
            return kind(value=getattr(self.dials, name), min=low, max=high, step=step, description=text, **quick)

        quick = {"continuous_update": True, "layout": w.Layout(width="320px")}
        controls = {
            "eps_low": slider("eps_low", 0.01, 0.9, 0.01, "ε_low"),
            "eps_high": slider("eps_high", 0.01, 0.9, 0.01, "ε_high"),
            "n": slider("n", 0.1, 6, 0.1, "n"),
            "m": slider("m", 0.5, 8, 0.1, "m"),
            "beta": slider("beta", 0.05, 1.5, 0.05, "β"),
            "c": slider("c", 1.5, 20, 0.5, "c"),
            "pi_old": slider("pi_old", -4, -0.5, 0.1, "π_old", log=True),
            "sign": w.ToggleButtons(options=[("A < 0", -1), ("A > 0", 1)], value=self.dials.sign),
            "space": w.Dropdown(options=SPACES, value=self.dials.space, description="weight"),
            "log": w.Checkbox(value=self.dials.log, description="logarithmic axes"),
        }
        images = [w.Image(value=png, format="png") for png in self.pngs()]
        for image, name in zip(images, ("landscape", "live"), strict=True):
            image.add_class(f"explorer-{name}")
        for name, control in controls.items():
            control.add_class(f"explorer-dial-{name}")

            def changed(change, name=name):
                self.dials = replace(self.dials, **{name: change["new"]})
                images[0].value = self.landscape.draw(self.dials)
                if name in ("eps_low", "eps_high", "n", "m", "c"):  # the others leave the three live methods alone
                    images[1].value = self.live.draw(self.dials)

            control.observe(changed, "value")
        dials = w.VBox(list(controls.values()), layout=w.Layout(min_width="340px"))
        return w.HBox([dials, w.VBox(images)])
