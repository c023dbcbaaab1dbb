//! Prints what a domain document becomes when it is defined: `define FILE...`, with the recorded capabilities of
//! QEMU 10.0.2. A refusal prints code, area and message. `define --lines` reads documents from standard input, each
//! a JSON string on a line, and answers each with a line: `{"output"}` or `{"code", "domain", "message"}`.
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::io::BufRead;

use qemu_plan::facts::Age;
use serde_json::json;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;

fn main() -> std::io::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names == ["--lines"] {
        return lines();
    }
    for path in names {
        let input = std::fs::read_to_string(&path)?;
        match support::define_as(&input, false, Age::New) {
            Ok(xml) => println!("== {path}\n{xml}"),
            Err((code, area, message)) => {
                println!("== {path}\nERROR {code} {} {message}", area.unwrap_or(0))
            }
        }
    }
    Ok(())
}

fn lines() -> std::io::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let document: String = serde_json::from_str(&line?)?;
        let answer = match support::define_as(&document, false, Age::New) {
            Ok(xml) => json!({ "output": xml }),
            Err((code, area, message)) => json!({ "code": code, "domain": area, "message": message }),
        };
        println!("{answer}");
    }
    Ok(())
}
