"""The only module here that imports matplotlib at once: `figure.new` imports it once a picture is drawn."""

from matplotlib.figure import Figure

from rlra_jax.plot.figure import rendered


class Picture(Figure):
    """A figure that notebooks show, whether pyplot and its backend are there or not."""

    def _repr_png_(self) -> bytes:
        return rendered(self, 'png')
