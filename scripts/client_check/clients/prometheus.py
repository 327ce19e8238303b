"""The parser of prometheus_client, over /metrics."""

from prometheus_client.parser import text_string_to_metric_families

from client_check.checks import check, equal


def families(server):
    text = server.request("/metrics")[2].decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


@check
def every_sample_has_a_type(server):
    found = families(server)
    # The names of TGI's counters do not end in `_total`, so they cannot be counters here.
    equal([name for name, family in found.items() if family.type == "unknown" and not name.startswith("tgi_")], [])
    equal([name for name, family in found.items() if not family.samples], [])


@check
def counters_count(server):
    def count():
        (sample,) = families(server)["tgi_request_count"].samples
        return sample.value

    before = count()
    server.text(max_new_tokens=1)
    equal(count(), before + 1)
