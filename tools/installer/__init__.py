"""Parts of the installer, tools/install.py. Standard library only: this runs before anything is installed."""
