#!/usr/bin/env python3
"""Defines a guest, starts it, reads an error by its reason and watches what happens.

    pip install grpcio grpcio-tools grpcio-status
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. proto/virtqemud/v1/*.proto
    python guests.py unix:/run/libvirt/virtqemud-grpc-sock demo.xml
"""

import sys
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from virtqemud.v1 import common_pb2, domains_pb2, domains_pb2_grpc, events_pb2, events_pb2_grpc


def reason(error):
    """The stable reason of an error, such as NO_DOMAIN; empty if the transport failed."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def main(target, document):
    with grpc.insecure_channel(target) as channel:
        domains = domains_pb2_grpc.DomainsStub(channel)
        events = events_pb2_grpc.EventsStub(channel)
        with open(document, encoding="utf-8") as file:
            guest = domains.Define(domains_pb2.DefineRequest(xml=file.read()))
        reference = common_pb2.DomainRef(uuid=guest.uuid)
        print("defined", guest.name)

        # A version to watch from; then nothing that follows can be missed.
        watch = events.Watch(events_pb2.WatchRequest(domains=[reference]))
        since = next(watch).bookmark

        # The etag makes sure that the guest is the one we know; the id makes the request safe to repeat.
        options = common_pb2.MutationOptions(request_id=str(uuid.uuid4()), etag=guest.etag)
        start = domains_pb2.StartRequest(domain=reference, options=options)
        guest = domains.Start(start)
        assert domains.Start(start).etag == guest.etag, "the answer of the first request"
        print("started with id", guest.id)

        try:
            domains.Start(domains_pb2.StartRequest(domain=reference))
        except grpc.RpcError as error:
            print("refused:", error.code().name, reason(error))

        off = domains.PowerOff(domains_pb2.PowerOffRequest(domain=reference))
        print("state", common_pb2.State.Name(off.state))

        watch.cancel()
        request = events_pb2.WatchRequest(since_version=since, domains=[reference])
        for item in events.Watch(request):
            lifecycle = item.event.lifecycle
            print("event", events_pb2.Event.Lifecycle.Detail.Name(lifecycle.detail))
            if lifecycle.type == events_pb2.Event.Lifecycle.TYPE_STOPPED:
                break
        domains.Undefine(domains_pb2.UndefineRequest(domain=reference))


if __name__ == "__main__":
    main(*sys.argv[1:])
