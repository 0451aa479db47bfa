"""Checkpoints: any teacher in, our own students and training states in and out. Nothing in a file is executed."""

from compressor.checkpoint.blackbox import open_graph
from compressor.checkpoint.class_order import by_names
from compressor.checkpoint.formats import guarded
from compressor.checkpoint.intake import load_network, load_teacher, shape_unsaid
from compressor.checkpoint.match import fitted
from compressor.checkpoint.network import Network, default_data
from compressor.checkpoint.own_files import load_state, save_state, save_student, save_weights
from compressor.checkpoint.reading import Tensors, open_tensors, read_tensors
from compressor.checkpoint.teacher_check import Checked, check_teacher

__all__ = [
    "Checked",
    "Network",
    "Tensors",
    "by_names",
    "check_teacher",
    "default_data",
    "fitted",
    "guarded",
    "load_network",
    "load_state",
    "load_teacher",
    "open_graph",
    "open_tensors",
    "read_tensors",
    "save_state",
    "save_student",
    "save_weights",
    "shape_unsaid",
]
