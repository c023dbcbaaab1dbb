//! Elements of the namespace `qemu`.
// table: one line a rule, in the order in which libvirt reads

use xmlform::{Area, Node};

use super::form::Form;
use super::rule::{Checked, Rule, Rules, When, Words, given, named, of, word};
use crate::Error;
use Rule::{Check, Child, Each, If};

/// Words of the reader of the namespace.
const fn qemu(text: &'static str) -> Words {
    of(Area::Qemu, text)
}

const BAD_FIRST: Words =
    qemu("internal error: Invalid environment name, it must begin with a letter or underscore");
const BAD_REST: Words =
    qemu("internal error: Invalid environment name, it must contain only alphanumerics and underscore");

/// All of the namespace.
pub(super) const QEMU: Rules = &[
    Each(
        "qemu:commandline",
        &[
            Each(
                "qemu:arg",
                &[named(
                    "value",
                    qemu("internal error: No qemu command-line argument specified"),
                )],
            ),
            Each(
                "qemu:env",
                &[
                    named("name", qemu("internal error: No qemu environment name specified")),
                    given("name", Form::Like(|name| name.starts_with(is_letter)), BAD_FIRST),
                    given(
                        "name",
                        Form::Like(|name| name.chars().all(|c| is_letter(c) || c.is_ascii_digit())),
                        BAD_REST,
                    ),
                ],
            ),
        ],
    ),
    Each(
        "qemu:override",
        &[Each(
            "qemu:device",
            &[
                named(
                    "alias",
                    qemu("XML error: missing 'alias' attribute for qemu:device"),
                ),
                Child("qemu:frontend", &[Each("qemu:property", PROPERTY)]),
            ],
        )],
    ),
    Each(
        "qemu:capabilities",
        &[
            Each(
                "qemu:add",
                &[named(
                    "capability",
                    qemu("internal error: missing capability name"),
                )],
            ),
            Each(
                "qemu:del",
                &[named(
                    "capability",
                    qemu("internal error: missing capability name"),
                )],
            ),
        ],
    ),
];

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

const PROPERTY: Rules = &[
    named(
        "name",
        qemu("XML error: missing 'name' attribute for qemu:property"),
    ),
    given(
        "name",
        Form::Like(|name| name != "id"),
        qemu("XML error: property with name 'id' can't be overridden"),
    ),
    word("type", crate::qemu::PropertyType::WORDS).needed(),
    If(
        When::Case(|node| node.attr("type") != Some("remove")),
        &[named(
            "value",
            qemu("XML error: missing 'value' attribute for 'qemu:property'"),
        )],
    ),
    Check(value),
];

fn value(node: Node<'_>) -> Checked {
    let value = node.attr("value");
    let form = match node.attr("type").unwrap_or_default() {
        "signed" => Form::I64(10),
        "unsigned" => Form::U64(10),
        "bool" => Form::Word(&["true", "false"]),
        "remove" if value.is_some() => {
            let said = "XML error: setting 'value' attribute of 'qemu:property' doesn't make sense with 'remove' type";
            return Err(qemu(said).of(""));
        }
        _ => Form::Any,
    };
    match value.filter(|value| form.check(value).is_err()) {
        Some(value) => {
            let said = format!("invalid value '{value}' of 'value' attribute of 'qemu:property'");
            Err(Error::xml(said).in_area(Area::Qemu))
        }
        None => Ok(()),
    }
}
