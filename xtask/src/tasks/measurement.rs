//! The steps that measuring subcommands share: check the section, become root, install tools, build
//! in release mode, run a program of `tests/src/bin`, and write its table into a document.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{
    host::{
        exec::{self, Root, Stream},
        install,
        inventory::Group,
    },
    reports::generated_docs,
};

/// A program that measures something and prints Markdown tables.
pub(crate) struct Measurement {
    /// The binary of the package sensor-tests.
    pub(crate) program: &'static str,
    /// The binaries to build; all of them if empty.
    pub(crate) binaries: &'static [&'static str],
    pub(crate) groups: &'static [Group],
    /// The reason why the program needs root, for the error.
    pub(crate) root_reason: &'static str,
    /// The document section of the tables.
    pub(crate) section: &'static str,
}

impl Measurement {
    /// Runs the program with arguments, and writes its tables into the document if `write` is set.
    pub(crate) fn run(&self, write: bool, add_args: impl FnOnce(&mut Command)) -> Result<()> {
        let root = self.prepare(write)?;
        let tables = self.run_program(root, add_args)?;
        self.finish(write, &tables)
    }

    /// Checks and builds everything, so that no error can waste minutes of measuring.
    pub(crate) fn prepare(&self, write: bool) -> Result<Root> {
        if write {
            generated_docs::check(self.section)?;
        }
        let root = Root::find().context(self.root_reason)?;
        install::ensure(self.groups)?;
        build_release(self.binaries)?;
        Ok(root)
    }

    /// Runs the program and returns its tables.
    pub(crate) fn run_program(
        &self,
        root: Root,
        add_args: impl FnOnce(&mut Command),
    ) -> Result<String> {
        let mut command = root.command(&release_program(self.program)?);
        add_args(&mut command);
        let name = exec::command_line(&command);
        let (status, tables) = exec::tee(&mut command, Stream::Stdout)?;
        exec::check_status(&name, status)?;
        Ok(tables)
    }

    /// Writes the tables into the document if `write` is set.
    pub(crate) fn finish(&self, write: bool, tables: &str) -> Result<()> {
        let has_table = tables.lines().any(|line| line.starts_with('|'));
        ensure!(has_table, "{} printed no table", self.program);
        if write {
            generated_docs::write(self.section, tables)?;
        }
        Ok(())
    }
}

/// Builds these binaries of memsensor and of its tests, or all of them, in release mode.
pub(crate) fn build_release(binaries: &[&str]) -> Result<()> {
    let mut cargo = exec::cargo();
    cargo.args(["build", "--release", "--package", "sensor-tests", "--package", "sensor-user"]);
    if binaries.is_empty() {
        cargo.arg("--bins");
    }
    exec::run(cargo.args(binaries.iter().flat_map(|name| ["--bin", name])))
}

/// The path of a program that [`build_release`] has built.
pub(crate) fn release_program(name: &str) -> Result<String> {
    let program = exec::target_dir()?.join("release").join(name);
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    Ok(program.to_owned())
}
