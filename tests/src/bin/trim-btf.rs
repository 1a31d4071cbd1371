//! Cuts a kernel's BTF down to what the resolver may ask of it, to keep as a test fixture.
//!
//! ```text
//! cargo run -p sensor-tests --bin trim-btf -- <vmlinux.btf> <out>
//! ```
//!
//! The input is the content of `/sys/kernel/btf/vmlinux`, or the `.BTF` section of a vmlinux. Kept:
//!
//! * the functions that name the arguments of a tracepoint (`__traceiter_`, `__probestub_`,
//!   `__bpf_trace_`), for every event of our probes and for all of vmscan, oom and compaction;
//! * the functions that our probes attach to;
//! * the structures that fields of our probes are in, with all members, and whatever those members
//!   hold by value, so that every offset and size stays what it was;
//! * the enums that our names and array indices come from, and those met on the way.
//!
//! A pointer keeps only the name of what it points to. At the end the tool asks the full and the
//! trimmed BTF the same questions, and fails if the answers differ.
//!
//! It has a reader of its own, for it copies types as words; `kernel::btf` answers questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use anyhow::{Context as _, Result, bail, ensure};
use sensor_ebpf::{
    probes,
    spec::{Field, Hook, Label},
};
use sensor_user::kernel::{btf::Btf, resolve};

/// Functions whose parameters are a tracepoint's arguments.
const PREFIXES: [&str; 3] = ["__traceiter_", "__probestub_", "__bpf_trace_"];

/// Events beside those of our probes: these, and what starts with [`MORE_PREFIXES`].
const MORE: [&str; 9] = [
    "compact_retry",
    "exit_mmap",
    "finish_task_reaping",
    "mark_victim",
    "oom_score_adj_update",
    "reclaim_retry_zone",
    "skip_task_reaping",
    "start_task_reaping",
    "wake_reaper",
];
/// The names of vmscan's and compaction's events (BTF does not know systems).
const MORE_PREFIXES: [&str; 3] = ["mm_vmscan_", "mm_shrink_slab_", "mm_compaction_"];

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: u32 = 24;
/// A forward declaration of a union instead of a struct.
const FWD_UNION: u32 = 1 << 31;
/// How many typedefs and qualifiers may follow each other before we call the data broken.
const DEPTH: u32 = 32;

/// A type as it is stored: three words, and those that its kind adds.
#[derive(Debug, Clone)]
struct Type {
    /// Offset in the strings, of the full BTF or of the trimmed one.
    name: u32,
    info: u32,
    /// Size in bytes, or the id of the type referred to.
    third: u32,
    body: Vec<u32>,
}

impl Type {
    fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }
}

/// How many words follow the first three.
fn body_words(info: u32) -> Result<usize> {
    let len = (info & 0xffff) as usize;
    Ok(match (info >> 24) & 0x1f {
        INT | VAR | DECL_TAG => 1,
        ARRAY => 3,
        STRUCT | UNION | DATASEC | ENUM64 => len * 3,
        ENUM | FUNC_PROTO => len * 2,
        PTR | FWD | TYPEDEF..=FUNC | FLOAT | TYPE_TAG => 0,
        other => bail!("unknown kind of type {other}: this tool is older than the kernel"),
    })
}

/// The whole BTF.
struct Full {
    strings: Vec<u8>,
    /// Index = type id - 1.
    types: Vec<Type>,
}

impl Full {
    fn parse(data: &[u8]) -> Result<Self> {
        let magic = data.get(..2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
        ensure!(magic == Some(MAGIC), "not BTF of this machine's byte order");
        let word = |at: usize| {
            let bytes = data.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_ne_bytes).context("cut short")
        };
        let at = |i: usize| Ok::<_, anyhow::Error>(word(i)? as usize);
        let header = at(4)?;
        let (types, types_len) = (header + at(8)?, at(12)?);
        let (strings, strings_len) = (header + at(16)?, at(20)?);
        let strings = data.get(strings..strings + strings_len).context("cut short")?.to_vec();
        let mut full = Self { strings, types: Vec::new() };
        let mut at = types;
        while at < types + types_len {
            let info = word(at + 4)?;
            let len = body_words(info)?;
            let body = (0..len).map(|i| word(at + 12 + i * 4)).collect::<Result<_>>()?;
            full.types.push(Type { name: word(at)?, info, third: word(at + 8)?, body });
            at += 12 + len * 4;
        }
        Ok(full)
    }

    fn get(&self, id: u32) -> Result<&Type> {
        let index = (id as usize).checked_sub(1);
        index.and_then(|i| self.types.get(i)).with_context(|| format!("no type {id}"))
    }

    fn string(&self, at: u32) -> Result<&str> {
        let rest = self.strings.get(at as usize..).context("a name outside of the strings")?;
        let end = rest.iter().position(|b| *b == 0).context("a name without an end")?;
        Ok(std::str::from_utf8(&rest[..end])?)
    }

    fn name(&self, ty: &Type) -> Result<&str> {
        self.string(ty.name)
    }

    /// The type behind typedefs, qualifiers and tags; 0 is void.
    fn plain(&self, mut id: u32) -> Result<u32> {
        for _ in 0..DEPTH {
            if id == 0 {
                return Ok(0);
            }
            let ty = self.get(id)?;
            match ty.kind() {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = ty.third,
                _ => return Ok(id),
            }
        }
        bail!("typedefs in a circle at type {id}")
    }
}

/// The trimmed BTF while it grows.
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

    /// Copies a type and what it is made of; its new id.
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

    /// A pointer: to one of the structures that we keep, to the mere name of another, or to void.
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

/// What must be there, from the probes' own descriptions.
struct Wanted {
    events: BTreeSet<&'static str>,
    functions: BTreeSet<&'static str>,
    fields: Vec<&'static str>,
    structs: BTreeSet<&'static str>,
    /// Enums known by name.
    enums: BTreeSet<&'static str>,
    /// Enums known by one of their enumerators.
    enumerators: BTreeSet<&'static str>,
}

impl Wanted {
    fn of_our_probes() -> Self {
        let programs = || probes::ALL.iter().flat_map(|p| p.programs);
        let paths = programs().flat_map(|p| p.fields).map(|f: &Field| f.path);
        let fields: Vec<_> = paths.chain([resolve::SAFE_FEXIT]).collect();
        let index = |path: &&'static str| Some(path.split_once('[')?.1.trim_end_matches(']'));
        let event = |hook| if let Hook::Tracepoint(event) = hook { Some(event) } else { None };
        let function = |hook| match hook {
            Hook::Fentry(name) | Hook::Fexit(name) | Hook::Kprobe(name) => Some(name),
            Hook::Tracepoint(_) => None,
        };
        Self {
            events: programs().filter_map(|p| event(p.hook())).collect(),
            functions: programs().filter_map(|p| function(p.hook())).collect(),
            structs: fields.iter().filter_map(|path| Some(path.split_once('.')?.0)).collect(),
            enums: probes::kernel_enums()
                .filter_map(|l| match l {
                    Label::KernelEnum { ty, .. } => Some(ty),
                    _ => None,
                })
                .collect(),
            enumerators: fields
                .iter()
                .filter_map(index)
                .chain([resolve::TASK_BTF_HELPER])
                .collect(),
            fields,
        }
    }

    fn event(&self, name: &str) -> bool {
        self.events.contains(name)
            || MORE.contains(&name)
            || MORE_PREFIXES.iter().any(|p| name.starts_with(p))
    }

    /// Whether this type is one to start from.
    fn root(&self, full: &Full, ty: &Type) -> Result<bool> {
        let name = full.name(ty)?;
        Ok(match ty.kind() {
            FUNC => {
                self.functions.contains(name)
                    || PREFIXES.iter().any(|p| name.strip_prefix(p).is_some_and(|e| self.event(e)))
            }
            STRUCT => self.structs.contains(name),
            kind @ (ENUM | ENUM64) => {
                let mut found = self.enums.contains(name);
                for part in ty.body.chunks_exact(if kind == ENUM { 2 } else { 3 }) {
                    found |= self.enumerators.contains(full.string(part[0])?);
                }
                found
            }
            _ => false,
        })
    }
}

/// Asks both the same questions.
fn compare(wanted: &Wanted, full: &Btf, trimmed: &Btf) -> Result<()> {
    for path in &wanted.fields {
        ensure!(full.offset(path) == trimmed.offset(path), "{path} is elsewhere after trimming");
    }
    for event in wanted.events.iter().chain(&MORE) {
        ensure!(full.tracepoint(event) == trimmed.tracepoint(event), "{event} was changed");
    }
    for name in &wanted.functions {
        ensure!(full.function(name) == trimmed.function(name), "{name} was changed");
    }
    for name in &wanted.enums {
        ensure!(full.enum_names(name) == trimmed.enum_names(name), "enum {name} was changed");
    }
    for name in &wanted.enumerators {
        ensure!(full.enumerator(name) == trimmed.enumerator(name), "{name} was changed");
    }
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let [from, to] = args.as_slice() else { bail!("usage: trim-btf <vmlinux.btf> <out>") };
    let data = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let wanted = Wanted::of_our_probes();
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
