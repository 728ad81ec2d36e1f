"""What can go wrong with the ledger.

LedgerError
├── JournalError            files in the journal directory
│   ├── LedgerFull          the disk takes no more and the backlog is full: the record was not kept
│   ├── WriterTaken         another live process writes under this writer id
│   └── JournalMissing      there is no such directory
└── StoreError              the database cannot be reached, or refuses
"""

from __future__ import annotations


class LedgerError(Exception):
    """Base of all errors of the ledger; the message names the file or the database."""


class JournalError(LedgerError):
    """A journal file or its directory cannot be used."""


class LedgerFull(JournalError):
    """A record could be neither written nor kept in the backlog."""


class WriterTaken(JournalError):
    """The writer id is in use by another live process (or another open journal of this one)."""


class JournalMissing(JournalError):
    """The journal directory does not exist or cannot be listed."""


class StoreError(LedgerError):
    """The database cannot be reached, lacks a driver, or refused a statement."""
