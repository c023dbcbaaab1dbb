//! The surface of the contract as text: a line for each thing that a client can depend on.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

/// A head for each message, enum and service; its parts are indented below it.
pub(super) fn of(set: &FileDescriptorSet) -> String {
    let mut text = String::new();
    for file in &set.file {
        let package = file.package();
        file.service.iter().for_each(|it| service(&mut text, package, it));
        file.enum_type
            .iter()
            .for_each(|it| r#enum(&mut text, package, it));
        file.message_type
            .iter()
            .for_each(|it| message(&mut text, package, it));
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn service(text: &mut String, scope: &str, it: &ServiceDescriptorProto) {
    line(text, &format!("service {scope}.{}", it.name()));
    for method in &it.method {
        let stream = |is| if is { "stream " } else { "" };
        let (input, output) = (method.input_type(), method.output_type());
        let (sends, gets) = (
            stream(method.client_streaming()),
            stream(method.server_streaming()),
        );
        line(
            text,
            &format!("  rpc {}: {sends}{input} -> {gets}{output}", method.name()),
        );
    }
}

fn r#enum(text: &mut String, scope: &str, it: &EnumDescriptorProto) {
    line(text, &format!("enum {scope}.{}", it.name()));
    for value in &it.value {
        line(text, &format!("  value {}: {}", value.number(), value.name()));
    }
    for range in &it.reserved_range {
        (range.start()..=range.end()).for_each(|number| line(text, &format!("  reserved {number}")));
    }
    it.reserved_name
        .iter()
        .for_each(|name| line(text, &format!("  reserved {name}")));
}

fn message(text: &mut String, scope: &str, it: &DescriptorProto) {
    let scope = format!("{scope}.{}", it.name());
    line(text, &format!("message {scope}"));
    for field in &it.field {
        let number = field.number();
        line(
            text,
            &format!("  field {number}: {} {}", field.name(), kind(it, field)),
        );
    }
    for range in &it.reserved_range {
        // The end of a message's range is not in it.
        (range.start()..range.end()).for_each(|number| line(text, &format!("  reserved {number}")));
    }
    it.reserved_name
        .iter()
        .for_each(|name| line(text, &format!("  reserved {name}")));
    it.enum_type.iter().for_each(|inner| r#enum(text, &scope, inner));
    it.nested_type
        .iter()
        .for_each(|inner| message(text, &scope, inner));
}

/// Type, cardinality and oneof of a field.
fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().to_owned(),
        plain => plain
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_ascii_lowercase(),
    };
    let oneof = field
        .oneof_index
        .and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    match (field.label(), oneof) {
        (Label::Repeated, _) => format!("repeated {name}"),
        (_, _) if field.proto3_optional() => format!("optional {name}"),
        (_, Some(oneof)) => format!("{name} in {}", oneof.name()),
        _ => name,
    }
}
