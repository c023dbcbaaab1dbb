//! Anything goes in; only values come out, and they go back the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use wire::frame::{FrameError, PACKET_MAX, decode_packet, packet_len};
use wire::remote::{DomainLookupByName, DomainSetSchedulerParameters, NonnullDomain};
use wire::typed::{TypedParam, TypedValue};
use wire::xdr::{DecodeError, List, Reader, STRING_MAX, Str, Text, Uuid, Xdr};
use wire::{PROGRAMS, admin};

fn encode(value: &impl Xdr) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out).unwrap();
    out
}

fn decode<T: Xdr>(bytes: &[u8]) -> Result<T, DecodeError> {
    T::decode(&mut Reader::new(bytes))
}

fn value() -> impl Strategy<Value = TypedValue> {
    prop_oneof![
        any::<i32>().prop_map(TypedValue::from),
        any::<u32>().prop_map(TypedValue::from),
        any::<i64>().prop_map(TypedValue::from),
        any::<u64>().prop_map(TypedValue::from),
        any::<bool>().prop_map(TypedValue::from),
        (-1e9..1e9).prop_map(|value: f64| TypedValue::from(value)),
        any::<String>().prop_map(TypedValue::from),
    ]
}

fn call() -> impl Strategy<Value = DomainSetSchedulerParameters> {
    let params = prop::collection::vec((any::<String>(), value()), 0..16);
    (any::<String>(), any::<[u8; 16]>(), any::<i32>(), params).prop_map(|(name, uuid, id, params)| {
        DomainSetSchedulerParameters {
            dom: NonnullDomain {
                name: name.into(),
                uuid: Uuid(uuid),
                id,
            },
            params: params
                .into_iter()
                .map(|(field, value)| TypedParam::new(field, value))
                .collect(),
        }
    })
}

proptest! {
    #[test]
    fn a_call_survives_the_round_trip(call in call()) {
        let bytes = encode(&call);
        prop_assert_eq!(bytes.len() % 4, 0);
        prop_assert_eq!(&decode::<DomainSetSchedulerParameters>(&bytes).unwrap(), &call);
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode::<DomainSetSchedulerParameters>(&bytes[..cut]), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn no_bytes_upset_the_packet_reader(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(packet) = decode_packet(&bytes) {
            prop_assert!(packet.payload.len() + 28 <= bytes.len());
        }
    }

    #[test]
    fn no_bytes_upset_any_procedure(words in prop::collection::vec(prop_oneof![0_u32..4, any::<u32>()], 0..48)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let programs = PROGRAMS.into_iter().chain([&admin::PROGRAM]);
        for info in programs.flat_map(|program| program.procedures) {
            for recode in [info.recode_args, info.recode_reply] {
                let mut once = Vec::new();
                if recode(&bytes, &mut once).is_ok() {
                    let mut twice = Vec::new();
                    recode(&once, &mut twice).unwrap();
                    prop_assert_eq!(once, twice, "{}", info.name);
                }
            }
        }
    }
}

#[test]
fn lengths_are_checked_before_they_are_believed() {
    assert_eq!(
        decode::<Text>(&u32::MAX.to_be_bytes()),
        Err(DecodeError::TooLong {
            len: u32::MAX,
            max: STRING_MAX
        })
    );
    assert_eq!(decode::<Text>(&4_u32.to_be_bytes()), Err(DecodeError::Truncated));
    let list = decode::<List<Text, 16_384>>(&16_384_u32.to_be_bytes());
    assert_eq!(list, Err(DecodeError::Truncated));
    let long = Str::<4>::from("hello");
    assert_eq!(long.encode(&mut Vec::new()).unwrap_err().max, 4);
    let lengths = [0, 3, 4, 27, u32::try_from(PACKET_MAX).unwrap() + 1, u32::MAX];
    for len in lengths {
        assert_eq!(packet_len(len.to_be_bytes()), Err(FrameError::Length(len)));
    }
    assert_eq!(packet_len(33_554_436_u32.to_be_bytes()), Ok(PACKET_MAX));
}

#[test]
fn reading_is_as_lenient_as_libvirts() {
    let name = |bytes: &[u8]| decode::<DomainLookupByName>(bytes).map(|call| call.name.to_str().into_owned());
    assert_eq!(name(b"\0\0\0\x05nope1xyz").as_deref(), Ok("nope1"));
    assert_eq!(name(b"\0\0\0\x05nope1"), Err(DecodeError::Truncated));
    assert_eq!(name(b"\0\0\0\x04no\0pe").as_deref(), Ok("no"));
    assert_eq!(name(b"\0\0\0\x04no\xff\xfe").as_deref(), Ok("no\u{fffd}\u{fffd}"));
    assert_eq!(name(b"\0\0\0\x02no\0\0trailing").as_deref(), Ok("no"));
    let flag = |bytes: &[u8]| decode::<Option<u32>>(bytes);
    assert_eq!(flag(b"\x01\0\0\0\0\0\0\x07"), Ok(Some(7)));
    assert_eq!(flag(b"\0\0\0\0\0\0\0\x07"), Ok(None));
    assert_eq!(
        decode::<TypedValue>(b"\0\0\0\x63\0\0\0\0"),
        Err(DecodeError::NoCase(99))
    );
    assert_eq!(
        decode::<TypedValue>(b"\0\0\0\x06\x01\0\0\0"),
        Ok(TypedValue::Boolean(true))
    );
}
