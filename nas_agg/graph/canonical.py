"""The canonical form of a network: what is left when names, and orders without meaning, are taken away.

Nested sums are one sum. Where nothing but weights says which channel is which, a concat is a multiset. The operations
are then put in an order that the writing has no part in, and the form is their list: equal forms are equal networks.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

from nas_agg.graph.graph import MAX_READS, Graph
from nas_agg.graph.primitives import Dropout, Primitive

#: What an operation reads: tensor and label. The label of an input among others is how often it is read, from 1, if
#: the order is without meaning, else -1 minus its place; of weights that several operations have it is 0.
Reads = tuple[tuple[int, int], ...]

#: Operations of which those that are nested are one.
_NESTED = ("add", "product")
_HEAD = b"nas_agg 1"


class Canonical(NamedTuple):
    """A graph's canonical form.

    Attributes:
        hash: 32 hexadecimal digits; equal for networks that are equal up to the names of their weights, the order of
            sums and means, and the order of concats that only order-blind operations follow.
        places: For each operation its place in the canonical order. Operations without weights that compute the same
            share one; a sum that only sums read has none, which is -1.
    """

    hash: str
    places: list[int]


def canonical_hash(graph: Graph) -> str:
    """32 hexadecimal digits, equal for equal networks however they are written; see `Canonical`."""
    return canonical_form(graph).hash


def canonical_form(graph: Graph) -> Canonical:
    """The canonical form of a graph.

    Two graphs with one hash are isomorphic by their places, so they compute the same for the same weights. Two writings
    of one network have one hash, except where parts that look alike to all their neighbours are not interchangeable
    (a ring of six and two rings of three, of one kind of node, in one network): these may differ.
    """
    same, reads, digests = _operations(graph, blind_tensors(graph))
    order = _order(digests, reads)
    place = {i: k for k, i in enumerate(order)}
    form = [_HEAD, b"%d" % place[same[graph.output]]]
    for i in order:
        form.append(digests[i])
        form.append(_text(sorted((label, place[source]) for source, label in reads[i])))
    places = [place[i] if i >= 0 else -1 for i in same]
    return Canonical(blake2b(b"".join(form), digest_size=16).hexdigest(), places)


def _text(pairs: Iterable[tuple[int, int]]) -> bytes:
    return b",".join([b"%x:%x" % pair for pair in pairs]) + b";"


# ---------------------------------------------------------------------- what has no order


def blind_tensors(graph: Graph) -> list[bool]:
    """For each tensor whether its channels may be in any order, if weights are permuted along with them.

    So it is where every reader is a linear or an ungrouped conv, or works channel by channel and is blind itself.
    """
    readers, blind = graph.readers, [False] * len(graph)
    for i in range(len(graph) - 1, -1, -1):
        if i != graph.output:
            blind[i] = all(_absorbs(graph, blind, reader) for reader in readers[i])
    return blind


def _absorbs(graph: Graph, blind: list[bool], reader: int) -> bool:
    op = graph.ops[reader]
    if op.symmetric:
        return True
    if reader in graph.shared:  # its weights are for other channels too
        return False
    if op.mixing:
        return True
    if not (op.channelwise and blind[reader]):
        return False
    # A gate must be permuted as what it multiplies: by the weights of the layer that makes it.
    return op.word != "mul" or bool(gate_chain(graph, reader))


def gate_chain(graph: Graph, mul: int) -> list[int]:
    """The tensors from a mul's gate back to the conv or linear layer whose outputs it is made of, channel by channel.

    Empty if anything else reads one of them, or if there is no such layer: then the gate's channels have an order.
    """
    chain, tensor = [], graph.inputs[mul][1]
    while len(graph.readers[tensor]) == 1:
        chain.append(tensor)
        op = graph.ops[tensor]
        if tensor in graph.shared:
            break
        if op.mixing:
            return chain
        if not op.channelwise or len(graph.inputs[tensor]) != 1:
            break
        tensor = graph.inputs[tensor][0]
    return []


# ---------------------------------------------------------------------- operations


def _operations(graph: Graph, blind: list[bool]) -> tuple[list[int], dict[int, Reads], dict[int, bytes]]:
    """The operations of the form.

    Returns:
        For each operation the one that stands for it, or -1; what each of these reads; and a digest of each with all
        that lies before it.
    """
    sums, gone = _sums(graph)
    kinds: dict[tuple[Primitive, bool], bytes] = {}
    known: dict[tuple[bytes, Reads], int] = {}
    same: list[int] = []
    reads: dict[int, Reads] = {}
    digests: dict[int, bytes] = {}
    for i, op in enumerate(graph.ops):
        if i in gone:
            same.append(-1)
            continue
        unordered = op.commutes or (op.word == "cat" and blind[i])
        kind = kinds.get((op, unordered)) or kinds.setdefault((op, unordered), _kind(op, unordered))
        row: Reads
        if unordered:
            counts: Counter[int] = Counter()
            for source, count in (sums[i] if i in sums else Counter(graph.inputs[i])).items():
                counts[same[source]] += count
            row = tuple(sorted(counts.items()))
        else:
            row = tuple([(same[source], -1 - place) for place, source in enumerate(graph.inputs[i])])
        if i in graph.shared:  # they read what stands for their weights
            weights = len(graph) + graph.shared[i]
            reads[weights], digests[weights] = (), _digest(b"weights", graph.shapes[0], [], False)
            row = (*row, (weights, 0))
        if not op.stateful and not isinstance(op, Dropout):  # two of these that read alike are one
            first = known.setdefault((kind, row), i)
            if first != i:
                same.append(first)
                continue
        same.append(i)
        reads[i] = row
        digests[i] = _digest(kind, graph.shapes[i], [(digests[source], label) for source, label in row], unordered)
    return same, reads, digests


def _kind(op: Primitive, unordered: bool) -> bytes:
    # A flag and the number 1 are written alike, so that it does not matter how the genotype said them.
    arguments = [int(value) if isinstance(value, bool) else value for value in op.arguments()]
    return repr((op.word, unordered, arguments)).encode()


def _digest(kind: bytes, shape: tuple[int, int, int], below: list[tuple[bytes, int]], unordered: bool) -> bytes:
    found = blake2b(b"%s %d %d %d " % (kind, *shape), digest_size=16)
    for digest, label in sorted(below) if unordered else below:
        found.update(digest + b"%x," % label)
    return found.digest()


def _sums(graph: Graph) -> tuple[dict[int, Counter[int]], set[int]]:
    """The terms of each sum or product, nested ones taken apart, and those that only their like read."""
    sums: dict[int, Counter[int]] = {}
    work = 0
    for i, op in enumerate(graph.ops):
        if op.word in _NESTED:
            terms: Counter[int] = Counter()
            for source in graph.inputs[i]:
                nested = sums.get(source) if graph.ops[source].word == op.word else None
                work += len(nested) if nested else 1
                if work > MAX_READS:  # too much to take apart: all sums stay as they are
                    return {}, set()
                for term, count in nested.items() if nested else ((source, 1),):
                    terms[term] += count
            sums[i] = terms
    gone = {
        i
        for i in sums
        if i != graph.output and all(graph.ops[reader].word == graph.ops[i].word for reader in graph.readers[i])
    }
    return sums, gone


# ---------------------------------------------------------------------- their order


def _order(digests: dict[int, bytes], reads: dict[int, Reads]) -> list[int]:
    """The operations in an order that follows from the network alone."""
    cells: list[set[int]] = []
    for _, members in groupby(sorted(digests, key=digests.__getitem__), digests.__getitem__):
        cells.append(set(members))
    if len(cells) < len(digests):
        return _Partition(cells, reads).order()
    return [i for cell in cells for i in cell]


class _Partition:
    """Operations in cells of those that cannot be told apart, in an order that the cells split in but never change.

    Cells are split by what their members read and are read by, until they agree in that. Members that are left
    together are interchangeable: one of them is taken out, and what is near it splits further.

    Args:
        cells: The first cells, in order.
        reads: What each operation reads.
    """

    def __init__(self, cells: list[set[int]], reads: dict[int, Reads]):
        self.cells: dict[int, set[int]] = {}  # by the place of the first member
        self.cell: dict[int, int] = {}
        place = 0
        for members in cells:
            self.put(place, members)
            place += len(members)
        self.near: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for i, row in reads.items():
            for source, label in row:
                self.near[source].append((i, 2 * label))
                self.near[i].append((source, 2 * label + 1))

    def put(self, place: int, members: set[int]) -> None:
        self.cells[place] = members
        for i in members:
            self.cell[i] = place

    def order(self) -> list[int]:
        self.refine(sorted(self.cells))
        for place in range(len(self.cell)):
            while place in self.cells and len(members := self.cells[place]) > 1:
                last = place + len(members) - 1
                self.put(last, {members.pop()})
                self.refine([last])
        return [i for place in sorted(self.cells) for i in self.cells[place]]

    def refine(self, splitters: list[int]) -> None:
        """Splits cells until the members of each have the same neighbours in each cell."""
        queue = deque(splitters)
        while queue:
            splitter = queue.popleft()
            seen: dict[int, list[int]] = defaultdict(list)
            for i in self.cells[splitter]:
                for other, label in self.near[i]:
                    if len(self.cells[self.cell[other]]) > 1:
                        seen[other].append(label)
            touched: dict[int, dict[tuple[int, ...], set[int]]] = defaultdict(lambda: defaultdict(set))
            for i, labels in seen.items():
                touched[self.cell[i]][tuple(sorted(labels))].add(i)
            for place, parts in sorted(touched.items()):
                queue.extend(self.split(place, [members for _, members in sorted(parts.items())]))

    def split(self, place: int, parts: list[set[int]]) -> list[int]:
        """Splits a cell into its members of no part, then the parts.

        Gives the places of all that it becomes but the first: what that has follows from the others, or it still waits.
        """
        rest = self.cells[place]
        if len(parts) == 1 and len(parts[0]) == len(rest):
            return []
        for members in parts:
            rest -= members
        pieces, start = [], place + len(rest)
        for members in parts:
            self.put(start, members)
            pieces.append(start)
            start += len(members)
        return pieces if rest else pieces[1:]
