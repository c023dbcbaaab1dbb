//! The head of a saved guest's image, whole or damaged: what is read is written again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qemu_plan::save_image::{HEADER_LEN, Header};

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::decode(bytes) else {
        return;
    };
    assert_eq!(Header::decode(&header.encode(true)), Ok(header));
    let Ok(texts) = header.texts(bytes.get(HEADER_LEN..).unwrap_or_default()) else {
        return;
    };
    // Texts that are as long as before have room.
    if let Some((again, data)) = texts.recompose(header, !header.runs) {
        assert_eq!(again.stream_at(), header.stream_at());
        assert_eq!(again.texts(&data), Ok(texts.clone()));
    }
    let (new, data) = texts.compose(header.runs, header.format);
    assert_eq!(new.texts(&data), Ok(texts));
});
