//! Keys that are pressed in a guest, as on a keyboard of its own.

use std::{sync::Arc, time::Duration};

use qemu_plan::keys::CodeSet;
use qmp::commands;
use serde_json::{Value, json};

use crate::{
    domain::{Domain, jobs::Kind},
    error::{Error, Result},
    ops::{Conditions, Driver, operation::Context, run::power},
};

/// Most keys that are pressed together.
pub const KEYS_MAX: usize = 16;

/// Keys that are pressed together, by QEMU's numbers, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub struct Chord {
    numbers: Vec<u32>,
    hold: Option<u64>,
}

impl Chord {
    /// The keys with these codes. Held for no time, they are held as long as QEMU usually does.
    ///
    /// # Errors
    /// `InvalidArg` for none and for too many, `Internal` for a code of no key.
    pub fn new(set: CodeSet, codes: &[u32], hold: Duration) -> Result<Self> {
        if codes.is_empty() || codes.len() > KEYS_MAX {
            let text = format!("1 to {KEYS_MAX} keys are pressed together, not {}", codes.len());
            return Err(Error::argument(text).at("codes"));
        }
        let number = |code: &u32| {
            set.number(*code).ok_or_else(|| {
                let name = set.name();
                Error::internal(format!(
                    "cannot translate keycode {code} of {name} codeset to qnum keycode"
                ))
            })
        };
        let hold = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        Ok(Self {
            numbers: codes.iter().map(number).collect::<Result<_>>()?,
            hold: (hold > 0).then_some(hold),
        })
    }

    fn command(&self) -> commands::SendKey {
        let key = |number: &u32| -> Value { json!({"type": "number", "data": number}) };
        commands::SendKey {
            keys: self.numbers.iter().map(key).collect(),
            hold_time: self.hold,
        }
    }
}

/// Presses keys together and lets them go.
///
/// # Errors
/// `OperationInvalid` if the guest does not run; what QEMU refuses.
pub async fn press(
    driver: &Arc<Driver>,
    domain: &Domain,
    chord: &Chord,
    conditions: &Conditions,
) -> Result<()> {
    let begun = power::begin(driver, domain, ("send-keys", Kind::Modify), conditions).await?;
    let (operation, guest) = begun;
    if operation.is_trial() {
        return Ok(());
    }
    let command = chord.command();
    let work = |_: Arc<Context>| async move { guest.execute(command).await.map(drop) };
    operation.carry_out(work).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn keys_are_pressed_by_qemus_numbers() {
        let chord = Chord::new(CodeSet::Usb, &[228, 4], Duration::from_millis(20)).unwrap();
        let command = serde_json::to_value(chord.command()).unwrap();
        let key = |number: u32| json!({"type": "number", "data": number});
        let expected = json!({"keys": [key(157), key(30)], "hold-time": 20});
        assert_eq!(command, expected);
        let usual = Chord::new(CodeSet::Linux, &[30], Duration::ZERO).unwrap();
        let command = serde_json::to_value(usual.command()).unwrap();
        assert_eq!(command, json!({"keys": [key(30)]}));
    }

    #[test]
    fn what_is_no_key_is_not_pressed() {
        let code = |codes: &[u32]| {
            let chord = Chord::new(CodeSet::Linux, codes, Duration::ZERO);
            chord.unwrap_err().code
        };
        assert_eq!(code(&[]), Code::InvalidArg);
        assert_eq!(code(&[30; 17]), Code::InvalidArg);
        assert_eq!(code(&[30, 9999]), Code::Internal);
    }
}
