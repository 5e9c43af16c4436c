"""Attributes of ``torch.nn.Module`` and of compiled networks, which no part of a network may be named after.

The list contains the public attributes of all supported versions of torch, as the names of parameters must not depend
on the version. A test compares it with ``dir(nn.Module())``.
"""

# fmt: off
MODULE_ATTRIBUTES = frozenset(
    [
        "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "compile",
        "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer",
        "get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "load_state_dict", "modules", "mtia",
        "named_buffers", "named_children", "named_modules", "named_parameters", "parameters",
        "register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook",
        "register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook", "register_module", "register_parameter",
        "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_", "set_extra_state",
        "set_submodule", "share_memory", "source", "start", "state_dict", "to", "to_empty", "train", "training",
        "type", "xpu", "zero_grad",
    ]
)
# fmt: on
