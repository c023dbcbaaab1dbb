//! What a document hands to QEMU by name: variables of its environment, properties of front ends.

use domxml::Domain;
use domxml::qemu::{Property, PropertyType, Variable};

use crate::error::{Error, Result};

/// Names are names, and values are of their kind.
pub(super) fn qemu(def: &Domain) -> Result<()> {
    let variables = def.qemu.commandline.iter().flat_map(|c| &c.env);
    variables.into_iter().try_for_each(variable)?;
    let devices = def.qemu.overrides.iter().flat_map(|o| &o.devices);
    devices.flat_map(|d| &d.frontend).try_for_each(property)
}

fn variable(variable: &Variable) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::internal_qemu(format!(
            "Invalid environment name, it must {what}"
        )))
    };
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !variable.name.starts_with(first) {
        return refuse("begin with a letter or underscore");
    }
    if !variable
        .name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return refuse("contain only alphanumerics and underscore");
    }
    Ok(())
}

fn property(property: &Property) -> Result<()> {
    if property.name == "id" {
        return Err(Error::xml_qemu("property with name 'id' can't be overridden"));
    }
    let Some(value) = property.value.as_deref() else {
        return match property.kind {
            PropertyType::Remove => Ok(()),
            _ => Err(Error::xml_qemu("missing 'value' attribute for 'qemu:property'")),
        };
    };
    let fits = match property.kind {
        PropertyType::String => true,
        PropertyType::Signed => value.parse::<i64>().is_ok(),
        PropertyType::Unsigned => value.parse::<u64>().is_ok(),
        PropertyType::Bool => matches!(value, "true" | "false"),
        PropertyType::Remove => {
            return Err(Error::xml_qemu(
                "setting 'value' attribute of 'qemu:property' doesn't make sense with 'remove' type",
            ));
        }
    };
    if fits {
        return Ok(());
    }
    Err(Error::xml_qemu(format!(
        "invalid value '{value}' of 'value' attribute of 'qemu:property'"
    )))
}
