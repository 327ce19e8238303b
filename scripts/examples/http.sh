#!/usr/bin/env bash
# Sends every request of prompts.json over HTTP and prints the answers. Needs curl and python3.
# usage: http.sh [ADDR]    the server's HTTP address, localhost:8080 if not given
set -euo pipefail
addr=${1:-localhost:8080}
folder=$(dirname "${BASH_SOURCE[0]}")

python3 "$folder/prompts.py" | while IFS= read -r body; do
    curl --silent --show-error --fail-with-body "http://$addr/generate" \
        --header 'content-type: application/json' --data-binary "$body"
    echo
done
