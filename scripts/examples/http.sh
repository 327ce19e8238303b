#!/usr/bin/env bash
# Sends every request of a file of prompts over HTTP and prints the answers. Needs curl and python3.
usage='usage: scripts/examples/http.sh [ADDR [FILE]]
    ADDR    the HTTP address of the server, localhost:8080 if not given
    FILE    demo.json, for the demo model, if not given; prompts.json is for the models of Falcon'
set -euo pipefail
case ${1-} in
-h | --help) echo "$usage" && exit ;;
-*) echo "http.sh: $1: no such option
$usage" >&2 && exit 2 ;;
esac
addr=${1:-localhost:8080}
folder=$(dirname "${BASH_SOURCE[0]}")

python3 "$folder/prompts.py" "${2:-demo.json}" | while IFS= read -r body; do
    curl --silent --show-error --fail-with-body "http://$addr/generate" \
        --header 'content-type: application/json' --data-binary "$body"
    echo
done
