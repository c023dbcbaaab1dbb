//! Prints what a domain document becomes when it is defined: `define FILE...`, with the recorded capabilities of
//! QEMU 10.0.2. A refusal prints code, area and message.
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;

fn main() -> std::io::Result<()> {
    for path in std::env::args().skip(1) {
        let input = std::fs::read_to_string(&path)?;
        match support::define_as(&input, false, qemu_plan::address::Age::New) {
            Ok(xml) => println!("== {path}\n{xml}"),
            Err((code, area, message)) => {
                println!("== {path}\nERROR {code} {} {message}", area.unwrap_or(0))
            }
        }
    }
    Ok(())
}
