"""The formulas of scripts/planning.py against what is counted on models small enough to run."""

from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from emoreg import Anchor, Hinge, Regularizer, default_penalties
from emoreg.reading.projection import project, standardise
from emoreg.reading.statistics import Statistics
from scripts import planning
from tests.distributed.law_3 import train
from tests.distributed.processes import run
from tests.support import padded, random_vectors, uneven_rows
from tests.tiny import llama

L, D, K = 4, 32, 3


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.fixture
def attached():
    model, batch = llama(), padded(uneven_rows(8))
    with Regularizer(random_vectors(model), [Hinge("desperate", threshold=-1.0)]).attach(model) as term:
        model(**batch)
        yield model, batch, term


def test_what_stays(attached):
    _, _, term = attached
    assert bytes_of(t for kept in term.reader._constants.values() for t in kept) == planning.constants(L, D, K)
    reference = term.reference
    texts, tokens = reference._ids_NT.shape
    counting = sum(map(len, reference._counting))
    held = [reference._ids_NT, reference._attention_NT, reference._base_NTLP, reference._own_base_LK]
    assert bytes_of([*held, *reference._counting]) == planning.reference(L, K, 1, texts, tokens, counting, own=0)
    for statistics in (term.statistics, term.eval_statistics):
        constants = [t for t in vars(statistics).values() if isinstance(t, torch.Tensor)]
        held = [*constants, *statistics._states.values()]
        assert bytes_of(held) == planning.statistics(L, K)


def test_what_lives_until_the_loss_and_until_backward(attached):
    _, batch, term = attached
    n = batch["input_ids"].numel()
    (one,) = term.reader._passes
    assert bytes_of([*one.all, *one.penalised]) == planning.until_loss(L, K, 1, n)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        term.loss(batch)
    assert sum(kept.values()) == pytest.approx(planning.until_backward(L, n), abs=16)  # and two single numbers


def peak(work):
    """Bytes that the allocator had given out at most, over what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        result = work()
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del result
    return most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("D", "K", "P"), [(256, 3, 1), (64, 171, 2)])
def test_what_a_layer_takes_and_gives_back(dtype, D, K, P):
    B, T = 4, 128
    hidden, directions = torch.randn(B, T, D).to(dtype).requires_grad_(), torch.randn(K, D)
    expected = planning.temporary(D, K, P, B * T, hidden.element_size())
    assert peak(lambda: project(hidden, directions, P)) == expected["forward"]
    penalised, readings = project(hidden, directions, P)
    two = peak(lambda: standardise(readings, torch.zeros(K), torch.ones(K)))
    assert bytes_of([readings]) + two == pytest.approx(expected["standardised"], abs=100 * K)
    given = torch.randn(B, T, P)
    assert peak(lambda: torch.autograd.grad(penalised, hidden, given)) == expected["backward"]
    statistics = Statistics([str(k) for k in range(K)], [0], [0.0] * K, torch.device("cpu"))
    taken = peak(lambda: statistics.update([readings], torch.ones(B, T).bool()))
    assert taken == pytest.approx(expected["statistics"], abs=250 * K)  # sums: a few numbers per emotion


def test_flops_of_a_step():
    """All matrix products of a step with the term, less those of the plain step."""
    model, batch = llama(), padded(uneven_rows(8))

    def flops(loss):
        with FlopCounterMode(display=False) as counter:
            loss().backward()
        return counter.get_total_flops()

    plain = flops(lambda: model(**batch).loss)
    with Regularizer(random_vectors(model), [Hinge("desperate", threshold=-1.0)]).attach(model) as term:
        with_term = flops(lambda: model(**batch).loss + term.loss(batch))
    assert with_term - plain == planning.projection(L, D, K, 1, batch["input_ids"].numel())


def test_parameters_are_those_of_the_model():
    for shape in planning.MODELS[:2]:
        config = LlamaConfig(
            hidden_size=shape.width, num_hidden_layers=shape.blocks, intermediate_size=shape.intermediate,
            num_attention_heads=32, num_key_value_heads=shape.key_values * 32 // shape.width,
            vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied,
        )  # fmt: skip
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        assert sum(p.numel() for p in model.parameters()) == shape.parameters


def test_traffic_of_two_ranks(tmp_path):
    """One reduction a log, of the size that the page says; none a step after the first."""
    calls = [call for call in run(2, train_default, tmp_path)[0]["sums"] if call[0] > 0]
    row = planning.of_log(L, K, 2, planning.numbers_of_default_set(L)) // 8
    assert [step for step, _ in calls] == [2, 4, 6, 6]  # the trainer logs once more at its end
    # The first window has every named number: an anchor's and gradient norms do not come in each.
    assert [calls[0][1], max(size for _, size in calls)] == [row, row]


def train_default(rank, folder):
    return train(rank, folder, "SFT", (2, 2), penalties=default_penalties(hinge=0.5), gradient_every=100)


def sharded(rank, folder):
    """What two steps under FSDP2 gather and scatter, by the anchor's passes and by the batch's; last, the drift."""
    torch.distributed.init_process_group("gloo")
    model, batch = llama(), padded(uneven_rows(4))
    vectors = random_vectors(model)
    for unit in (*model.model.layers, model):
        fully_shard(unit)
    found = []

    class Traffic(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "c10d":
                tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
                found[-1].append((function.overloadpacket.__name__, max(t.numel() for t in tensors)))
            return function(*args, **(kwargs or {}))

    regularizer = Regularizer(vectors, [Hinge("desperate", threshold=-1.0), Anchor("desperate", every=2)])
    with regularizer.attach(model) as term, Traffic():
        for step in range(2):
            found.append([])
            assert term.begin_step(step)
            anchors = term.anchors(step)
            if anchors.requires_grad:
                anchors.backward()
            found.append([])
            (model(**batch).loss + term.loss(batch, step=step)).backward()
        found.append([])
        term.reference.read()
    return found


def test_a_sharded_anchor_gathers_the_weights_as_often_as_a_batch_does_and_the_drift_half_as_often(tmp_path):
    anchor, batch, no_anchor, batch_again, drift = run(2, sharded, tmp_path)[0]

    def gathers(calls):
        return sorted(size for name, size in calls if "gather" in name)

    assert gathers(anchor) == gathers(batch) == gathers(batch_again)
    assert len(gathers(drift)) == L + 1
    assert len(gathers(batch)) == 2 * L + 1  # the last unit's, the head's, are still there in backward
    scatters = [len([name for name, _ in calls if "scatter" in name]) for calls in (anchor, batch)]
    assert scatters[0] <= scatters[1]
    assert no_anchor == []


def test_the_page_is_what_the_script_prints():
    page = Path(__file__).parents[2] / "docs/planning.md"
    assert page.read_text() == planning.page() + "\n"
