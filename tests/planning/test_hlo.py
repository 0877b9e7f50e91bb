"""What is read out of the text of a compiled program, against figures added up by hand."""

import pytest

from attnseg_jax.planning import hlo

# As the compiler for TPUs writes it: S(1) is the fast memory of a chip, T(...) the tiles of an array.
TEXT = """\
HloModule jit_step, is_scheduled=true

%body (state: (s32[], f32[6,40])) -> (s32[], f32[6,40]) {
  %state = (s32[], f32[6,40]{1,0:T(8,128)}) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %stack = f32[6,40]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %piece = f32[1,40]{1,0:T(8,128)S(1)} fusion(%stack, %count), kind=kLoop, calls=%one_row, \
metadata={op_name="jit(step)/jvp(Segmenter)/attention/attention0.attend/mul"}, \
backend_config={"window_config":{"estimated_cycles":"70"}}
  %next = f32[6,40]{1,0:T(8,128)} fusion(%stack, %piece, %count), kind=kLoop, calls=%put_row
  ROOT %both = (s32[], f32[6,40]{1,0:T(8,128)}) tuple(%count, %next)
}

%one_row (param_0: f32[6,40], param_1: s32[]) -> f32[1,40] {
  %param_0 = f32[6,40]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  ROOT %row = f32[1,40]{1,0} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,40}
}

%put_row (param_0.1: f32[6,40], param_1.1: f32[1,40], param_2: s32[]) -> f32[6,40] {
  %param_0.1 = f32[6,40]{1,0} parameter(0)
  %param_1.1 = f32[1,40]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  ROOT %put = f32[6,40]{1,0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2)
}

%gather_piece (param_0.2: bf16[3,8]) -> bf16[24,8] {
  %param_0.2 = bf16[3,8]{1,0} parameter(0)
  ROOT %all-gather.7 = bf16[24,8]{1,0} all-gather(%param_0.2), channel_id=9, dimensions={0}
}

ENTRY %main (a: f32[6,40], b: bf16[3,8]) -> (f32[6,40], f32[5]) {
  %a = f32[6,40]{1,0:T(8,128)} parameter(0)
  %b = bf16[3,8]{1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[6,40]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[], f32[6,40]{1,0:T(8,128)}) while(%start), condition=%more, body=%body, \
backend_config={"known_trip_count":{"n":"6"}}
  %sums = f32[5]{0:T(128)} all-reduce(%near), channel_id=1, to_apply=%add
  %again = (f32[5]{0:T(128)S(1)}, /*index=1*/f32[7]{0:T(128)S(1)}) all-reduce(%near, %far), channel_id=1, to_apply=%add
  %begin = bf16[24,8]{1,0:T(8,128)(2,1)S(1)} fusion(%b), kind=kCustom, calls=%gather_piece
  %finish = bf16[24,8]{1,0:T(8,128)(2,1)S(1)} fusion(%b), kind=kCustom, calls=%gather_piece
  %kernel = f32[6,40]{1,0:T(8,128)S(1)} custom-call(%a), custom_call_target="tpu_custom_call"
  %copy-start = (f32[6,40]{1,0:T(8,128)S(1)}, f32[6,40]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[6,40]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %add = f32[6,40]{1,0:T(8,128)} fusion(%copy-done, %kernel), kind=kLoop, calls=%sum, \
metadata={op_name="jit(step)/add"}, backend_config={"window_config":{"estimated_cycles":"11"}}
  ROOT %out = (f32[6,40]{1,0:T(8,128)}, f32[5]{0:T(128)}) tuple(%add, %sums)
}
"""


@pytest.fixture(scope="module")
def taken():
    return hlo.taken(TEXT)


def test_the_bodies_of_loops_count_as_often_as_they_run(taken):
    cycles = {path: count for path, count in taken.cycles.items() if count}
    assert cycles == {"jit(step)/jvp(Segmenter)/attention/attention0.attend/mul": 6 * 70, "jit(step)/add": 11}
    assert taken.unknown_loops == 0
    unknown = hlo.taken(TEXT.replace("known_trip_count", "something_else"))
    assert unknown.unknown_loops == 1 and sum(unknown.cycles.values()) == 70 + 11


def test_only_the_large_memory_counts(taken):
    row, whole, gathered = 40 * 4, 6 * 40 * 4, 3 * 8 * 2
    # A pass of the loop reads one row, and writes one; the counter is a number of 4 bytes that both read.
    loop = 6 * (row + 4 + row + 4)
    # What is summed: written from the large memory once; its operands are not among these instructions.
    sums = 5 * 4
    # The pieces of the gather read `b` each; the kernel, and the copy into the fast memory, read `a`.
    assert taken.bytes == loop + sums + 2 * gathered + whole + whole + whole


def test_a_collective_counts_once_however_many_pieces_it_has(taken):
    assert taken.collectives == {"all-reduce": (2, (5 + 5 + 7) * 4), "all-gather": (1, 24 * 8 * 2)}


def test_kernels_are_named(taken):
    assert taken.kernels == {"kernel": 1}
