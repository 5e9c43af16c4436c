"""The canonical form of a network, which is independent of names and of orders without meaning.

Nested sums are flattened. A concat is a multiset where the order of its channels is only a matter of the weights that
follow. The operations are then ordered by color refinement, independently of how the network was written, and the form
is the ordered list: networks with equal forms are equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

from nas_agg.graph.graph import MAX_READS, Graph
from nas_agg.graph.primitives import Dropout, Primitive

#: What an operation reads: tensors and labels. The label is the number of times that a tensor is read if the order of
#: the inputs has no meaning, else -1 minus its position; the label of weights that several operations share is 0.
Reads = tuple[tuple[int, int], ...]

#: Operations that are flattened where they are nested.
_NESTED = ("add", "product")
_HEAD = b"nas_agg 1"


class CanonicalForm(NamedTuple):
    """A graph's canonical form.

    Attributes:
        hash: 32 hexadecimal digits; equal for networks that are equal up to the names of their weights, the order of
            sums and means, and the order of concats whose readers do not depend on it.
        positions: For each operation its position in the canonical order. Operations without weights that compute the
            same share a position; a sum that only sums read has none, which is -1.
    """

    hash: str
    positions: list[int]


def canonical_hash(graph: Graph) -> str:
    """Return 32 hexadecimal digits, equal for equal networks however they are written; see `Canonical`."""
    return canonical_form(graph).hash


def canonical_form(graph: Graph) -> CanonicalForm:
    """Return the canonical form of a graph.

    Two graphs with equal hashes are isomorphic by their positions, so they compute the same for the same weights. Two
    writings of one network have equal hashes, except where color refinement cannot separate parts that are not
    interchangeable (one ring of six and two rings of three nodes of one kind, in one network): these may differ.
    """
    representatives, reads, digests = _operations(graph, permutable_tensors(graph))
    order = _canonical_order(digests, reads)
    position = {i: k for k, i in enumerate(order)}
    form = [_HEAD, b"%d" % position[representatives[graph.output]]]
    for i in order:
        form.append(digests[i])
        form.append(_pairs_text(sorted((label, position[source]) for source, label in reads[i])))
    positions = [position[i] if i >= 0 else -1 for i in representatives]
    return CanonicalForm(blake2b(b"".join(form), digest_size=16).hexdigest(), positions)


def _pairs_text(pairs: Iterable[tuple[int, int]]) -> bytes:
    return b",".join([b"%x:%x" % pair for pair in pairs]) + b";"


# ---------------------------------------------------------------------- channels without an order


def permutable_tensors(graph: Graph) -> list[bool]:
    """Return for each tensor whether its channels may be permuted if weights are permuted along with them.

    This holds if every reader is a linear layer or a convolution without groups, or works channel by channel and is
    permutable itself.
    """
    readers, permutable = graph.readers, [False] * len(graph)
    for i in range(len(graph) - 1, -1, -1):
        if i != graph.output:
            permutable[i] = all(_absorbs_permutation(graph, permutable, reader) for reader in readers[i])
    return permutable


def _absorbs_permutation(graph: Graph, permutable: list[bool], reader: int) -> bool:
    op = graph.ops[reader]
    if op.channel_symmetric:
        return True
    if reader in graph.shared:  # its weights apply to other channels, too
        return False
    if op.mixes_channels:
        return True
    if not (op.channelwise and permutable[reader]):
        return False
    # A gate must be permuted like the tensor that it multiplies, by the weights of the layer that computes the gate.
    return op.word != "mul" or bool(gate_chain(graph, reader))


def gate_chain(graph: Graph, mul: int) -> list[int]:
    """Return the tensors from a gate back to the convolution or linear layer that computes it, channel by channel.

    Empty if anything else reads one of them, or if there is no such layer: then the order of the gate's channels has a
    meaning.

    Args:
        graph: The graph.
        mul: The multiplication by the gate.
    """
    chain, tensor = [], graph.inputs[mul][1]
    while len(graph.readers[tensor]) == 1:
        chain.append(tensor)
        op = graph.ops[tensor]
        if tensor in graph.shared:
            break
        if op.mixes_channels:
            return chain
        if not op.channelwise or len(graph.inputs[tensor]) != 1:
            break
        tensor = graph.inputs[tensor][0]
    return []


# ---------------------------------------------------------------------- operations


def _operations(graph: Graph, permutable: list[bool]) -> tuple[list[int], dict[int, Reads], dict[int, bytes]]:
    """Return the operations of the form.

    Returns:
        For each operation the operation that represents it, or -1; what each of these reads; and a digest of each
        together with everything that it depends on.
    """
    terms_of, absorbed = _flatten_sums(graph)
    kinds: dict[tuple[Primitive, bool], bytes] = {}
    first_of: dict[tuple[bytes, Reads], int] = {}
    representatives: list[int] = []
    reads: dict[int, Reads] = {}
    digests: dict[int, bytes] = {}
    for i, op in enumerate(graph.ops):
        if i in absorbed:
            representatives.append(-1)
            continue
        unordered = op.commutative or (op.word == "cat" and permutable[i])
        kind = kinds.get((op, unordered)) or kinds.setdefault((op, unordered), _kind(op, unordered))
        row: Reads
        if unordered:
            counts: Counter[int] = Counter()
            for source, count in (terms_of[i] if i in terms_of else Counter(graph.inputs[i])).items():
                counts[representatives[source]] += count
            row = tuple(sorted(counts.items()))
        else:
            row = tuple([(representatives[source], -1 - k) for k, source in enumerate(graph.inputs[i])])
        if i in graph.shared:  # operations with shared weights read a node that represents the weights
            weights = len(graph) + graph.shared[i]
            reads[weights], digests[weights] = (), _digest(b"weights", graph.shapes[0], [], False)
            row = (*row, (weights, 0))
        if not op.stateful and not isinstance(op, Dropout):  # equal operations on equal inputs are one
            first = first_of.setdefault((kind, row), i)
            if first != i:
                representatives.append(first)
                continue
        representatives.append(i)
        reads[i] = row
        digests[i] = _digest(kind, graph.shapes[i], [(digests[source], label) for source, label in row], unordered)
    return representatives, reads, digests


def _kind(op: Primitive, unordered: bool) -> bytes:
    # True and 1 are written alike, since a genotype may contain either.
    arguments = [int(value) if isinstance(value, bool) else value for value in op.arguments()]
    return repr((op.word, unordered, arguments)).encode()


def _digest(kind: bytes, shape: tuple[int, int, int], inputs: list[tuple[bytes, int]], unordered: bool) -> bytes:
    result = blake2b(b"%s %d %d %d " % (kind, *shape), digest_size=16)
    for digest, label in sorted(inputs) if unordered else inputs:
        result.update(digest + b"%x," % label)
    return result.digest()


def _flatten_sums(graph: Graph) -> tuple[dict[int, Counter[int]], set[int]]:
    """Return the flattened terms of each sum or product, and those that only operations of their kind read."""
    terms_of: dict[int, Counter[int]] = {}
    work = 0
    for i, op in enumerate(graph.ops):
        if op.word in _NESTED:
            terms: Counter[int] = Counter()
            for source in graph.inputs[i]:
                nested = terms_of.get(source) if graph.ops[source].word == op.word else None
                work += len(nested) if nested else 1
                if work > MAX_READS:  # too much work: no sum is flattened
                    return {}, set()
                for term, count in nested.items() if nested else ((source, 1),):
                    terms[term] += count
            terms_of[i] = terms
    absorbed = {
        i
        for i in terms_of
        if i != graph.output and all(graph.ops[reader].word == graph.ops[i].word for reader in graph.readers[i])
    }
    return terms_of, absorbed


# ---------------------------------------------------------------------- the canonical order


def _canonical_order(digests: dict[int, bytes], reads: dict[int, Reads]) -> list[int]:
    """Return the operations in an order that depends only on the network."""
    cells: list[set[int]] = []
    for _, members in groupby(sorted(digests, key=digests.__getitem__), digests.__getitem__):
        cells.append(set(members))
    if len(cells) < len(digests):
        return _Partition(cells, reads).order()
    return [i for cell in cells for i in cell]


class _Partition:
    """Partition refinement (McKay 1981): an ordered partition of operations into cells, which are split only.

    Cells are split by the neighbours of their members, until all members of a cell have the same neighbours in each
    cell. Members that remain together are interchangeable: one of them is separated, and its neighbours split further.

    Args:
        cells: Initial cells, in order.
        reads: What each operation reads.
    """

    def __init__(self, cells: list[set[int]], reads: dict[int, Reads]):
        self.cells: dict[int, set[int]] = {}  # by the position of the first member
        self.cell_of: dict[int, int] = {}
        position = 0
        for members in cells:
            self._put(position, members)
            position += len(members)
        self.neighbours: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for i, row in reads.items():
            for source, label in row:
                self.neighbours[source].append((i, 2 * label))
                self.neighbours[i].append((source, 2 * label + 1))

    def _put(self, position: int, members: set[int]) -> None:
        self.cells[position] = members
        for i in members:
            self.cell_of[i] = position

    def order(self) -> list[int]:
        """Refine until each cell has one member, and return the members in order."""
        self._refine(sorted(self.cells))
        for position in range(len(self.cell_of)):
            while position in self.cells and len(members := self.cells[position]) > 1:
                last = position + len(members) - 1
                self._put(last, {members.pop()})
                self._refine([last])
        return [i for position in sorted(self.cells) for i in self.cells[position]]

    def _refine(self, splitters: list[int]) -> None:
        """Split cells until the members of each have the same neighbours in each cell."""
        queue = deque(splitters)
        while queue:
            splitter = queue.popleft()
            labels_of: dict[int, list[int]] = defaultdict(list)
            for i in self.cells[splitter]:
                for other, label in self.neighbours[i]:
                    if len(self.cells[self.cell_of[other]]) > 1:
                        labels_of[other].append(label)
            touched: dict[int, dict[tuple[int, ...], set[int]]] = defaultdict(lambda: defaultdict(set))
            for i, labels in labels_of.items():
                touched[self.cell_of[i]][tuple(sorted(labels))].add(i)
            for position, parts in sorted(touched.items()):
                queue.extend(self._split(position, [members for _, members in sorted(parts.items())]))

    def _split(self, position: int, parts: list[set[int]]) -> list[int]:
        """Split a cell into its members that are in no part, followed by the parts.

        Returns:
            The positions of all new cells but the first, whose members' neighbours follow from the others'.
        """
        rest = self.cells[position]
        if len(parts) == 1 and len(parts[0]) == len(rest):
            return []
        for members in parts:
            rest -= members
        new_cells, start = [], position + len(rest)
        for members in parts:
            self._put(start, members)
            new_cells.append(start)
            start += len(members)
        return new_cells if rest else new_cells[1:]
