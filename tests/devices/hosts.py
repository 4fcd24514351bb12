"""One of two processes with two devices each; started twice by test_hosts.py."""

import sys

import jaxvae as jv
from tests.devices.support import run_checks

if __name__ == "__main__":
    address, process_id = sys.argv[1:]
    jv.parallel.initialize(address, 2, int(process_id))
    from tests.devices.hosts_numbers import CHECKS  # which uses devices

    run_checks(CHECKS, devices=4)
