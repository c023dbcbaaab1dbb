//! The family of a processor, and the signature, whose form depends on the family.

use super::names::family;
use super::table::{Structure, Version};

/// A family whose number is in another place.
const ELSEWHERE: u8 = 0xfe;
/// A family that two vendors have.
const CORE_2_OR_K7: u16 = 0xbe;

/// How a signature is put into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Intel,
    Amd,
    I386,
    I486,
    Arm,
}

/// By first and last number of the family; others have no signature.
const FORMS: &[(u16, u16, Form)] = &[
    (0x05, 0x05, Form::I386),
    (0x06, 0x06, Form::I486),
    (0x0b, 0x15, Form::Intel),
    (0x18, 0x1d, Form::Amd),
    (0x1f, 0x1f, Form::Amd),
    (0x28, 0x2f, Form::Intel),
    (0x38, 0x3f, Form::Amd),
    (0x46, 0x4f, Form::Amd),
    (0x66, 0x6b, Form::Amd),
    (0x83, 0x8f, Form::Amd),
    (0xa1, 0xb3, Form::Intel),
    (0xb5, 0xb5, Form::Intel),
    (0xb6, 0xb7, Form::Amd),
    (0xb9, 0xc7, Form::Intel),
    (0xcd, 0xcf, Form::Intel),
    (0xd2, 0xdb, Form::Intel),
    (0xdd, 0xe0, Form::Intel),
    (0xe4, 0xef, Form::Amd),
    (0x100, 0x101, Form::Arm),
    (0x118, 0x119, Form::Arm),
];

/// What the name of a processor without a family begins with.
const VERSIONS: &[(&str, Form)] = &[
    ("Pentium III MMX", Form::Intel),
    ("Intel(R) Core(TM)2", Form::Intel),
    ("Intel(R) Pentium(R)", Form::Intel),
    ("Genuine Intel(R) CPU U1400", Form::Intel),
    ("AMD Athlon(TM)", Form::Amd),
    ("AMD Opteron(tm)", Form::Amd),
    ("Dual-Core AMD Opteron(tm)", Form::Amd),
];

fn family_code(structure: &Structure<'_>) -> Option<u16> {
    match structure.byte(6)? {
        ELSEWHERE => Some(structure.word(0x28).unwrap_or(ELSEWHERE.into())),
        code => Some(code.into()),
    }
}

/// The family's name.
pub(super) fn family_name(structure: &Structure<'_>, version: Version) -> Option<String> {
    let code = family_code(structure)?;
    let maker = structure.string(7).unwrap_or_default();
    let name = match code {
        CORE_2_OR_K7 if maker.contains("Intel") => "Core 2",
        CORE_2_OR_K7 if maker.contains("AMD") => "K7",
        CORE_2_OR_K7 => "Core 2 or K7",
        // the number was another's in that version
        0x30 if version == (2, 0) && maker == "Intel" => "Pentium Pro",
        code => family(code),
    };
    Some(name.to_owned())
}

/// The signature's words, for families that have one.
pub(super) fn signature(structure: &Structure<'_>) -> Option<String> {
    let code = family_code(structure)?;
    let name = structure.string(0x10).unwrap_or_default();
    let by_number = || {
        FORMS
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&code))
            .map(|(.., form)| *form)
    };
    let by_name = || {
        VERSIONS
            .iter()
            .find(|(begin, _)| name.starts_with(begin))
            .map(|(_, form)| *form)
    };
    let form = if matches!(code, 1 | 2) {
        by_name()
    } else {
        by_number()
    };
    words(form?, structure.dword(8)?)
}

fn words(form: Form, word: u32) -> Option<String> {
    let part = |shift: u32, bits: u32| word >> shift & ((1 << bits) - 1);
    let (kind, family, model, stepping) = (part(12, 2), part(8, 4), part(4, 4), part(0, 4));
    let more_model = part(16, 4) << 4 | model;
    Some(match form {
        Form::Intel => format!(
            "Type {kind}, Family {}, Model {more_model}, Stepping {stepping}",
            part(20, 8) + family
        ),
        Form::Amd if family == 15 => format!(
            "Family {}, Model {more_model}, Stepping {stepping}",
            part(20, 8) + family
        ),
        Form::Amd => format!("Family {family}, Model {model}, Stepping {stepping}"),
        Form::I486 if has_cpuid(part(0, 12)) => return words(Form::Intel, word),
        Form::I486 => format!("Type {kind}, Family {family}, Model {model}, Stepping {stepping}"),
        Form::I386 => format!(
            "Type {}, Family {family}, Major Stepping {model}, Minor Stepping {stepping}",
            part(12, 4)
        ),
        Form::Arm if word == 0 => return None,
        Form::Arm => format!(
            "Implementor 0x{:02x}, Variant 0x{:x}, Architecture {}, Part 0x{:03x}, Revision {stepping}",
            part(24, 8),
            part(20, 4),
            part(16, 4),
            part(4, 12)
        ),
    })
}

/// Whether a 486 is one of the later ones.
fn has_cpuid(signature: u32) -> bool {
    let model = signature & 0xf0;
    signature & 0xf00 == 0x400 && (model == 0x40 || model >= 0x70) && signature & 0xf >= 3
}
