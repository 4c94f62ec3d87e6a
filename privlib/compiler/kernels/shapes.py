"""The shape of one 2-D convolution, and how its work is cut into tasks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conv2d:
    """batch × height × width × c_in → batch × out_height × out_width × c_out, PyTorch's definitions.

    padding is (top, left, bottom, right); channels of a group are contiguous.
    """

    batch: int
    height: int
    width: int
    c_in: int
    c_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out_height(self) -> int:
        top, _, bottom, _ = self.padding
        return (self.height + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        _, left, _, right = self.padding
        return (self.width + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1

    @property
    def depthwise(self) -> bool:
        return self.groups == self.c_in == self.c_out and self.groups > 1

    @property
    def pointwise(self) -> bool:
        """1×1, stride 1, no padding: a matrix product over pixels."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding) and self.groups == 1

    @property
    def flops(self) -> int:
        taps = self.kernel[0] * self.kernel[1] * self.c_in // self.groups
        return 2 * self.batch * self.out_height * self.out_width * self.c_out * taps

    def input_rows(self, output_rows: int) -> int:
        """Rows of the padded input that `output_rows` consecutive output rows read."""
        return (output_rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1


def divisors(number: int) -> list[int]:
    """Divisors in falling order."""
    return [d for d in range(number, 0, -1) if number % d == 0]


def strip_rows(images: int, rows: int, row_bytes: int, cores: int, budget: int = 192 * 1024) -> int:
    """Rows of output that one task takes: the most that fit the cache budget and still give every core the same number
    of tasks."""
    fitting = [d for d in divisors(rows) if d * row_bytes <= budget or d == 1]
    even = [d for d in fitting if images * (rows // d) % cores == 0 or images * (rows // d) >= 8 * cores]
    return (even or fitting[-1:])[0]
