//! A daemon that dies as it is about to change a directory: a file is made known, renamed or removed by that, so between two
//! of those moments nothing of it changes for the next daemon.
//!
//! A library that is preloaded counts; the compiler that links Rust's programs makes it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::Daemon;

const SOURCE: &str = include_str!("die_at.c");

/// When it dies.
#[derive(Debug)]
pub struct DieAt {
    dir: TempDir,
}

impl DieAt {
    /// Never, until it is told.
    ///
    /// # Errors
    /// There is no compiler, or no place for its files.
    pub fn new() -> Result<Self> {
        let this = Self {
            dir: tempfile::tempdir()?,
        };
        let source = this.dir.path().join("die_at.c");
        fs::write(&source, SOURCE)?;
        let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"];
        let mut compiler = Command::new("cc");
        compiler.args(flags).arg(this.library()).arg(source);
        let status = compiler.status().context("the compiler")?;
        ensure!(status.success(), "the compiler failed: {status}");
        Ok(this)
    }

    /// A daemon that dies when this says so.
    ///
    /// # Errors
    /// Its program has no name.
    pub fn on(&self, daemon: Daemon) -> Result<Daemon> {
        let program = daemon.program.file_name().context("a program without a name")?;
        let program = program.to_string_lossy().into_owned();
        Ok(daemon
            .env("LD_PRELOAD", &self.library().to_string_lossy())
            .env("DIE_AT_PROGRAM", &program)
            .env("DIE_AT", &self.armed().to_string_lossy()))
    }

    /// It dies as it is about to change a directory for the `nth` time from now, counted from 1.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn arm(&self, nth: u32) -> Result<()> {
        Ok(fs::write(self.armed(), format!("{nth:<12}"))?)
    }

    /// It does not die any more.
    ///
    /// # Errors
    /// The file can't be removed.
    pub fn disarm(&self) -> Result<()> {
        match fs::remove_file(self.armed()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("die_at.so")
    }

    fn armed(&self) -> PathBuf {
        self.dir.path().join("armed")
    }
}
