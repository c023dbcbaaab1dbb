//! Libvirt's wire format: what a call costs before anybody works on it, and the answers that are large.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "what fails here fails the measurement"
)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use wire::{
    frame::{Header, PacketType, Status, decode_packet, put_packet, put_reply},
    remote::{self, ConnectListAllDomainsRet, DomainStatsRecord, NonnullDomain},
    typed::TypedParam,
    xdr::{Reader, Uuid, Xdr},
};

/// Guests in the large answers.
const GUESTS: i32 = 1_000;
/// Statistics of one guest in the large answer.
const STATISTICS: u64 = 60;

fn guest(number: i32) -> NonnullDomain {
    let mut uuid = [7; 16];
    uuid[..4].copy_from_slice(&number.to_be_bytes());
    NonnullDomain {
        name: format!("guest-{number:04}").into(),
        uuid: Uuid(uuid),
        id: number,
    }
}

fn header() -> Header {
    Header {
        program: remote::PROGRAM.number,
        version: remote::PROGRAM.version,
        procedure: 16,
        r#type: PacketType::CALL,
        serial: 9,
        status: Status::OK,
    }
}

fn statistics(number: i32) -> DomainStatsRecord {
    let param = |n| TypedParam::new(format!("block.{n}.rd.bytes"), n << 20);
    DomainStatsRecord {
        dom: guest(number),
        params: (0..STATISTICS).map(param).collect(),
    }
}

fn encoded(value: &impl Xdr) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out).unwrap();
    out
}

/// A value's way out and back.
fn both_ways<T: Xdr>(c: &mut Criterion, name: &str, value: &T) {
    let bytes = encoded(value);
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let buffer = || Vec::with_capacity(bytes.len());
    group.bench_function("encode", |b| {
        b.iter_batched(
            buffer,
            |mut out| black_box(value).encode(&mut out).map(|()| out),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("decode", |b| {
        b.iter(|| T::decode(&mut Reader::new(black_box(&bytes))).unwrap())
    });
    group.finish();
}

fn values(c: &mut Criterion) {
    both_ways(c, "domain", &guest(1));
    let domains = (0..GUESTS).map(guest).collect();
    both_ways(
        c,
        "list_of_1000_domains",
        &ConnectListAllDomainsRet { domains, ret: 1_000 },
    );
    let ret_stats = (0..100).map(statistics).collect();
    both_ways(
        c,
        "statistics_of_100_domains",
        &remote::ConnectGetAllDomainStatsRet { ret_stats },
    );
    let xml = "<disk type='file' device='disk'/>\n".repeat(128).into();
    both_ways(c, "document_of_4_kb", &remote::DomainGetXmlDescRet { xml });
}

/// A whole packet: the call of DomainGetInfo and its answer.
fn packets(c: &mut Criterion) {
    let dom = guest(1);
    let mut call = Vec::new();
    put_packet(&mut call, &header(), |out| dom.encode(out)).unwrap();
    c.bench_function("call/decode", |b| {
        b.iter(|| {
            let packet = decode_packet(black_box(&call)).unwrap();
            NonnullDomain::decode(&mut Reader::new(packet.payload)).unwrap()
        });
    });
    let info = remote::DomainGetInfoRet {
        state: 1,
        max_mem: 1 << 20,
        memory: 1 << 20,
        nr_virt_cpu: 2,
        ..Default::default()
    };
    let mut out = Vec::new();
    c.bench_function("reply/encode", |b| {
        b.iter(|| {
            out.clear();
            put_reply(&mut out, black_box(&header()), black_box(&info), 0).unwrap();
            black_box(out.len())
        });
    });
}

criterion_group!(xdr, values, packets);
criterion_main!(xdr);
