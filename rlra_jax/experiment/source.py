"""A split of a prepared TFDS set, example by example: what cannot be read is told by file and index."""

from collections.abc import Sequence
from typing import Any

BAD_EXAMPLES = ('error', 'skip')  # what to do about examples that cannot be read


class BadExampleError(ValueError):
    """An example that cannot be read, or from which nothing could be learned."""


class Source:
    """source[index] -> {'image': ..., 'label': ..., ...}, from 0.

    Args:
      name: of the split, for messages.
      reader: what TFDS made of it.
      files: (path, number of examples) of each of its files, in order.
    """

    def __init__(self, name: str, reader: Any, files: Sequence[tuple[str, int]] = ()):
        self.name, self._reader, self._files = name, reader, files

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises BadExampleError."""
        try:
            return self._reader[index]
        except Exception as error:  # whatever the readers and decoders of TFDS raise
            raise self.bad(index, f'it cannot be read or decoded ({error})') from error

    def together(self, indices: Sequence[int]) -> list[dict[str, Any] | BadExampleError]:
        """Several at once, which is faster; in the place of one that cannot be read, the error."""
        try:
            return list(self._reader.__getitems__(list(indices)))
        except Exception:  # it does not tell which one
            return [self._or_error(index) for index in indices]

    def _or_error(self, index: int) -> dict[str, Any] | BadExampleError:
        try:
            return self[index]
        except BadExampleError as error:
            return error

    def bad(self, index: int, why: Any) -> BadExampleError:
        """What to raise where an example is of no use."""
        return BadExampleError(f'example {index} of {self.name}{self._place(index)}: {" ".join(str(why).split())}')

    def _place(self, index: int) -> str:
        """The file that holds an example, and where it stands there, from 0."""
        for file, count in self._files:
            if index < count:
                return f' (record {index} of {file})'
            index -= count
        return ''


def open_source(builder: Any, name: str, split: str, **options: Any) -> Source:
    """A split of a TFDS builder; options are those of its `as_data_source`."""
    told = builder.info.splits[split]
    files = [(str(path), count) for path, count in zip(told.filepaths, told.shard_lengths, strict=True)]
    return Source(f'{name}/{split}', builder.as_data_source(split, **options), files)
