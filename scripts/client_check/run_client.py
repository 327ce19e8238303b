"""Runs the checks of one client in that client's environment. usage: run_client.py MODULE PACKAGE RESULTS [--may-start]"""

import importlib
import sys
from importlib import metadata

from client_check import checks

module, package, results = sys.argv[1:4]
client = importlib.import_module(f"client_check.clients.{module}")
# A program's module says itself which one it is.
version = client.version() if package == "-" else metadata.version(package)
checks.main(version, "--may-start" in sys.argv, results)
