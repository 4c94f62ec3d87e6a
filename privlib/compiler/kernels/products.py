"""Scalar products between the pixels of an image, row by row: what `gram` reads."""

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile, transposed


class Products:
    """⟨pixel, other⟩ for the pixels of one row and those of that row and of all later rows; a few rows at a time.

    `source` (images, height, width, channels) from image `first` on, `images` of them padded and stacked on each other:
    rows and columns are those of the padded stack. What lies in the padding is zero and costs nothing. The pixels lie
    transposed in panels of a register tile's width, (panels, channels, pixels of a panel), each row filled up with
    zeros so that a vector holds whole rows or a row whole vectors.
    """

    def __init__(
        self,
        kernel: Kernel,
        source: Any,
        first: Expression,
        images: int,
        extent: tuple[int, int],
        channels: int,
        padding: tuple[int, int, int, int],
        kept_rows: int,
    ) -> None:
        self.kernel, self.lanes, self.channels, self.kept_rows = kernel, kernel.lanes, channels, kept_rows
        self.height, self.width = extent
        self.top, self.left, bottom, right = padding
        self.pitch = _filled(self.width, self.lanes)
        self.rows = self.top + self.height + bottom
        self.columns = self.left + max(self.pitch, self.width + right)
        self.panel = kernel.machine.tile_vectors * self.lanes
        self.panels = -(-images * self.height * self.pitch // self.panel)
        lines = self.panels * self.panel // self.pitch  # the last panel may reach beyond the last image
        size = self.place(lines // self.height, lines % self.height) + self.pitch
        self.transposed = kernel.scratch((self.panels, channels, self.panel))
        self.products = kernel.scratch((kept_rows, self.columns, size))
        self.norms = kernel.scratch((images * self.rows * self.columns,))
        self._clear(images)
        self._transpose(source, first, images)

    def place(self, image: Expression, y: Expression) -> Expression:
        """Where row y of an image, without its padding, begins in the padded stack."""
        return (image * self.rows + self.top + y) * self.columns + self.left

    def _clear(self, images: int) -> None:
        """Zeros in the padding, once: nothing is ever stored there."""
        zero = self.kernel.constant(0.0)
        if self.rows > self.height or self.columns > self.pitch:
            shape = [int(extent) for extent in self.products.shape]
            with T.serial(shape[0]) as slot, T.serial(shape[1]) as column:
                self._zeros(slot, column, shape[2])
            with T.serial(images * self.rows * self.columns) as at:
                T.buffer_store(self.norms, zero, [at])
        filled = -(-images * self.height * self.pitch // self.lanes) * self.lanes
        if filled % self.panel:
            with T.serial(self.channels) as c, T.serial(self.panel - filled % self.panel) as rest:
                T.buffer_store(self.transposed, zero, [self.panels - 1, c, filled % self.panel + rest])

    def _zeros(self, slot: Expression, column: Expression, count: int) -> None:
        def store(at: Expression, lanes: int) -> None:
            self.kernel.store(self.products, self.kernel.constant(0.0, lanes), slot, column, at, lanes=lanes)

        self.kernel.for_vectors(count, store)

    def _transpose(self, source: Any, first: Expression, images: int) -> None:
        lanes, pitch, width = self.lanes, self.pitch, self.width

        def vector(at: Expression, pixels: list[Any]) -> None:
            """Pixels at … at + lanes of the panels; None for those that are only filling."""
            panel, lane = T.Bind(at // self.panel), T.Bind(at % self.panel)
            zero = self.kernel.constant

            def channels(c: Expression, count: int) -> None:
                if count == lanes:
                    rows = [self.kernel.load(source, *at, c) if at else zero(0.0, lanes) for at in pixels]
                    for number, column in enumerate(transposed([T.Bind(row) for row in rows])):
                        self.kernel.store(self.transposed, column, panel, c + number, lane)
                    return
                with T.serial(count) as number:
                    for place, at in enumerate(pixels):
                        value = source[(*at, c + number)] if at else zero(0.0)
                        T.buffer_store(self.transposed, value, [panel, c + number, lane + place])

            self.kernel.for_vectors(self.channels, channels)

        if pitch >= lanes:
            with T.serial(images) as image, T.serial(self.height) as y:

                def segment(x: Expression, count: int) -> None:
                    pixels = [(first + image, y, x + place) if place < count else None for place in range(lanes)]
                    vector((image * self.height + y) * pitch + x, pixels)

                for_tiles(width, lanes, segment)
            return

        def lines(start: Expression, count: int) -> None:
            def pixel(line: int, x: int) -> Any:
                number = start + line
                inside = line < count and x < width
                return (first + number // self.height, number % self.height, x) if inside else None

            vector(start * pitch, [pixel(place // pitch, place % pitch) for place in range(lanes)])

        for_tiles(images * self.height, lanes // pitch, lines)

    def row(self, image: Expression, y: Expression) -> None:
        """Compute the products of padded row y of an image."""
        slot = T.Bind((image * self.rows + y) % self.kept_rows)
        inside = T.Bind(y - self.top)
        if self.rows == self.height:
            self._inner_row(slot, image, inside)
            return
        with T.If(T.And(inside >= 0, inside < self.height)):
            with T.Then():
                self._inner_row(slot, image, inside)
            with T.Else(), T.serial(self.width) as px:
                self._zeros(slot, self.left + px, int(self.products.shape[2]))

    def _inner_row(self, slot: Expression, image: Expression, y: Expression) -> None:
        kernel, lanes, vectors = self.kernel, self.lanes, self.kernel.machine.tile_vectors
        begin, place = T.Bind((image * self.height + y) * self.pitch), T.Bind(self.place(image, y))
        start = T.Bind(begin // self.panel)
        piece = min(lanes, self.pitch)

        def tile(panel: Expression, offset: Expression, count: int) -> None:
            # rows of a tile lie in one panel: both extents are powers of two, or multiples of a vector
            own, lane = T.Bind((begin + offset) // self.panel), T.Bind((begin + offset) % self.panel)

            def reduction(step: Any) -> None:
                with T.serial(self.channels) as c:
                    step(
                        lambda r: self.transposed[own, c, lane + r],
                        lambda v: kernel.load(self.transposed, panel, c, v * lanes),
                    )

            sums = register_tile(kernel, count, vectors, reduction)
            for v in range(vectors):
                for part in range(lanes // piece):
                    other = T.Bind(panel * self.panel + v * lanes + part * piece)
                    line = T.Bind(other // self.pitch)
                    at = T.Bind(self.place(line // self.height, line % self.height) + other % self.pitch)
                    for r in range(count):
                        value = kernel.load(sums, (r * vectors + v) * lanes)
                        if piece < lanes:
                            value = _part(value, part * piece, piece)
                        kernel.store(self.products, value, slot, self.left + offset + r, at, lanes=piece)

        with T.serial(self.panels - start) as more:  # a panel stays in the first cache for all of the row's tiles
            panel = T.Bind(start + more)
            for_tiles(self.width, kernel.machine.tile_rows, lambda offset, count: tile(panel, offset, count))
        with T.serial(self.width) as px:
            product = T.Bind(self.products[slot, self.left + px, place + px])
            T.buffer_store(self.norms, T.sqrt(product), [place + px])

    def load(
        self, y: Expression, px: Expression, other: tuple[Expression, Expression], stride: int, lanes: int
    ) -> Expression:
        """Products of pixel (y, px) with `lanes` pixels from `other` on, `stride` columns apart."""
        slot, at = y % self.kept_rows, other[0] * self.columns + other[1]
        if lanes == 1:
            return self.products[slot, px, at]
        return self.products[slot, px, T.ramp(at, stride, lanes)]

    def norm(self, y: Expression, px: Expression) -> Expression:
        """‖pixel (y, px)‖."""
        return self.norms[y * self.columns + px]


def _filled(width: int, lanes: int) -> int:
    """`width` rounded up to a power of two, or beyond a vector to whole vectors."""
    return 1 << (width - 1).bit_length() if width <= lanes else -(-width // lanes) * lanes


def _part(vector: Expression, start: int, count: int) -> Expression:
    return tirx.Shuffle([vector], list(range(start, start + count)))
