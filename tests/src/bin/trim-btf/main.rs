//! Reduces a kernel's BTF to the types that the resolver needs, for a test fixture.
//!
//! ```text
//! cargo run -p sensor-tests --bin trim-btf -- <vmlinux.btf> <out>
//! ```
//!
//! The input is the content of `/sys/kernel/btf/vmlinux`, or the `.BTF` section of a vmlinux. Kept:
//!
//! * the functions that name the arguments of a tracepoint (`__traceiter_`, `__probestub_`,
//!   `__bpf_trace_`), for every event of the probes and for all of vmscan, oom and compaction;
//! * the functions that the probes attach to;
//! * the structures of the probes' fields, with all members and the types that these contain by
//!   value, so that offsets and sizes do not change;
//! * the enums of label names and array indices, and enums in the types above.
//!
//! A pointer keeps only the name of its target. At the end the tool does all lookups in the full
//! and in the trimmed BTF, and fails if the results differ.
//!
//! It has its own reader, because it copies types as words; `kernel::btf` is for lookups.

mod raw;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use anyhow::{Context as _, Result, bail};
use sensor_core::btf::reader::Btf;

use self::{
    raw::{
        ARRAY, CONST, ENUM, ENUM64, FLOAT, FUNC, FUNC_PROTO, FWD, FWD_UNION, Full, HEADER_LEN, INT,
        MAGIC, PTR, RESTRICT, STRUCT, TYPE_TAG, TYPEDEF, Type, UNION, VOLATILE,
    },
    wanted::{Wanted, compare},
};

/// The trimmed BTF, while it is built.
struct Trimmed<'a> {
    full: &'a Full,
    structs: &'a BTreeSet<&'a str>,
    /// `None` while the type is being copied.
    types: Vec<Option<Type>>,
    /// New id by old.
    ids: BTreeMap<u32, u32>,
    /// New id of the pointer to a new id.
    pointers: BTreeMap<u32, u32>,
    /// New id of a forward declaration by its name and info.
    forwards: BTreeMap<(String, u32), u32>,
    strings: Vec<u8>,
    string_at: BTreeMap<String, u32>,
}

impl<'a> Trimmed<'a> {
    fn new(full: &'a Full, structs: &'a BTreeSet<&'a str>) -> Self {
        Self {
            full,
            structs,
            types: Vec::new(),
            ids: BTreeMap::new(),
            pointers: BTreeMap::new(),
            forwards: BTreeMap::new(),
            strings: vec![0],
            string_at: BTreeMap::from([(String::new(), 0)]),
        }
    }

    fn string(&mut self, text: &str) -> Result<u32> {
        if let Some(at) = self.string_at.get(text) {
            return Ok(*at);
        }
        let at = u32::try_from(self.strings.len())?;
        self.strings.extend(text.bytes().chain([0]));
        self.string_at.insert(text.to_owned(), at);
        Ok(at)
    }

    fn renamed(&mut self, at: u32) -> Result<u32> {
        self.string(self.full.string(at)?)
    }

    fn push(&mut self, ty: Option<Type>) -> Result<u32> {
        self.types.push(ty);
        Ok(u32::try_from(self.types.len())?)
    }

    /// Copies a type and the types it contains; returns its new id.
    fn keep(&mut self, old: u32) -> Result<u32> {
        if old == 0 {
            return Ok(0);
        }
        if let Some(id) = self.ids.get(&old) {
            return Ok(*id);
        }
        let full = self.full;
        let mut ty = full.get(old)?.clone();
        if ty.kind() == PTR {
            let id = self.pointer(ty.third)?;
            self.ids.insert(old, id);
            return Ok(id);
        }
        // The id first: a structure may hold a pointer to itself.
        let id = self.push(None)?;
        self.ids.insert(old, id);
        ty.name = self.renamed(ty.name)?;
        match ty.kind() {
            TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG | FUNC | FUNC_PROTO => {
                ty.third = self.keep(ty.third)?;
            }
            INT | ARRAY | STRUCT | UNION | ENUM | ENUM64 | FWD | FLOAT => {}
            other => bail!("type {old} of kind {other} is part of another"),
        }
        match ty.kind() {
            ARRAY => {
                ty.body[0] = self.keep(ty.body[0])?;
                ty.body[1] = self.keep(ty.body[1])?;
            }
            kind @ (STRUCT | UNION | FUNC_PROTO) => {
                for part in ty.body.chunks_exact_mut(if kind == FUNC_PROTO { 2 } else { 3 }) {
                    part[0] = self.renamed(part[0])?;
                    part[1] = self.keep(part[1])?;
                }
            }
            kind @ (ENUM | ENUM64) => {
                for part in ty.body.chunks_exact_mut(if kind == ENUM { 2 } else { 3 }) {
                    part[0] = self.renamed(part[0])?;
                }
            }
            _ => {}
        }
        self.types[id as usize - 1] = Some(ty);
        Ok(id)
    }

    /// Copies a pointer: to a kept structure, to a forward declaration of another, to an integer,
    /// or to void.
    fn pointer(&mut self, target: u32) -> Result<u32> {
        let full = self.full;
        let target = full.plain(target)?;
        let mut new = 0;
        if target != 0 {
            let ty = full.get(target)?;
            let name = full.name(ty)?;
            let forward = match ty.kind() {
                STRUCT => Some(FWD << 24),
                UNION => Some(FWD << 24 | FWD_UNION),
                FWD => Some(ty.info),
                _ => None,
            };
            new = match forward {
                Some(_) if ty.kind() == STRUCT && self.structs.contains(name) => {
                    self.keep(target)?
                }
                Some(info) if !name.is_empty() => self.forward(name, info)?,
                _ if ty.kind() == INT => self.keep(target)?,
                _ => 0,
            };
        }
        if let Some(id) = self.pointers.get(&new) {
            return Ok(*id);
        }
        let ty = Type { name: 0, info: PTR << 24, third: new, body: Vec::new() };
        let id = self.push(Some(ty))?;
        self.pointers.insert(new, id);
        Ok(id)
    }

    fn forward(&mut self, name: &str, info: u32) -> Result<u32> {
        let key = (name.to_owned(), info);
        if let Some(id) = self.forwards.get(&key) {
            return Ok(*id);
        }
        let name = self.string(name)?;
        let id = self.push(Some(Type { name, info, third: 0, body: Vec::new() }))?;
        self.forwards.insert(key, id);
        Ok(id)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let mut words = Vec::new();
        for ty in &self.types {
            let ty = ty.as_ref().context("a type was not finished")?;
            words.extend([ty.name, ty.info, ty.third]);
            words.extend(&ty.body);
        }
        let types_len = u32::try_from(words.len() * 4)?;
        let strings_len = u32::try_from(self.strings.len())?;
        let mut data = MAGIC.to_ne_bytes().to_vec();
        data.extend([1, 0]);
        let header = [HEADER_LEN, 0, types_len, types_len, strings_len];
        data.extend(header.iter().chain(&words).flat_map(|w| w.to_ne_bytes()));
        data.extend(&self.strings);
        Ok(data)
    }
}

fn main() -> Result<()> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let [from, to] = args.as_slice() else { bail!("usage: trim-btf <vmlinux.btf> <out>") };
    let data = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let wanted = Wanted::of_probes();
    let full = Full::parse(&data).with_context(|| format!("read {}", from.display()))?;
    let mut trimmed = Trimmed::new(&full, &wanted.structs);
    for (id, ty) in (1..).zip(&full.types) {
        if wanted.root(&full, ty)? {
            trimmed.keep(id)?;
        }
    }
    let out = trimmed.bytes()?;
    compare(&wanted, &Btf::parse(data)?, &Btf::parse(out.clone())?)?;
    fs::write(to, &out).with_context(|| format!("write {}", to.display()))?;
    println!("{} types, {} bytes", trimmed.types.len(), out.len());
    Ok(())
}
