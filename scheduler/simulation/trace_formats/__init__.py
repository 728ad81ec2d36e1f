"""Readers of public traces of requests, one small file per family; a file is recognised by what it begins with.

FORMATS                         CSV families, by the columns they need
CsvFile, MooncakeFile           a file as a stream of ``Block``
TraceError                      the file cannot be used; the text names file, line and reason
"""

from scheduler.simulation.trace_formats.agentic import AGENTIC
from scheduler.simulation.trace_formats.azure import AZURE
from scheduler.simulation.trace_formats.block import PREFIX_BLOCK_TOKENS, Block, TraceError
from scheduler.simulation.trace_formats.burstgpt import BURSTGPT
from scheduler.simulation.trace_formats.csv_file import CsvFile, CsvFormat, Options
from scheduler.simulation.trace_formats.mooncake import MooncakeFile
from scheduler.simulation.trace_formats.normalised import NORMALISED
from scheduler.simulation.trace_formats.servegen import SERVEGEN

FORMATS: tuple[CsvFormat, ...] = (NORMALISED, AGENTIC, AZURE, BURSTGPT, SERVEGEN)

__all__ = ["FORMATS", "PREFIX_BLOCK_TOKENS", "Block", "CsvFile", "CsvFormat", "MooncakeFile", "Options", "TraceError"]
