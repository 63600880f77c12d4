//! NATs do what their kind says: the whole laboratory without Halloo.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use halloo_lab::inside;

/// Runs `lab` with these arguments and returns what it prints; `None`, said loudly, where no lab
/// can be built.
fn lab(arguments: &[&str]) -> Option<String> {
    if let Some(why) = inside::obstacle() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: no lab can be built here: {why}");
        }
        return None;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab {arguments:?} failed: {errors}\n{said}");
    Some(said)
}

#[test]
fn a_home_router_keeps_the_port_and_lets_nobody_else_in() {
    let Some(said) = lab(&["check", "eim-apdf"]) else { return };
    assert!(said.contains("mapping endpoint-independent"), "{said}");
    assert!(said.contains("filtering address-and-port-dependent, ports preserved"), "{said}");
}

#[test]
fn a_carrier_gives_each_destination_another_port_of_one_block() {
    let Some(said) = lab(&["check", "cgn-block"]) else { return };
    assert!(said.contains("mapping address-and-port-dependent"), "{said}");
    assert!(said.contains("random in a block of 1,024"), "{said}");
}

#[test]
fn a_kind_that_does_not_exist_is_a_clear_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(["check", "conical"]).output();
    let output = output.unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("conical"));
}
