//! A parser of BTF, the kernel's type information: prototypes, structure members, enums.
//!
//! It reads only what [`super::resolve`] needs. Pure: bytes in, values out. The format is described
//! in Documentation/bpf/btf.rst.
//!
//! Why not a crate: aya-obj parses BTF but does not export member offsets (`pub(crate)`), btf-rs is
//! LGPL, which deny.toml refuses, and btfparse has very few users.
//!
//! Not here: BTF of modules, writing BTF, relocations.

use std::collections::BTreeMap;

/// File with the BTF of the running kernel.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Deepest nesting of typedefs, qualifiers and arrays; deeper data counts as corrupt.
const MAX_DEPTH: u32 = 32;
/// Most anonymous members that are entered to find one member: they may contain themselves. The
/// largest structures of the kernel have some thirty.
const MAX_ANONYMOUS: u32 = 256;

/// Why BTF could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Not BTF, or of another byte order or version.
    NotBtf,
    /// Truncated, or with an offset outside of the data.
    Corrupt,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotBtf => "not BTF of this machine's byte order",
            Self::Corrupt => "BTF is truncated or has an offset outside of the data",
        })
    }
}

impl std::error::Error for Error {}

/// A parameter of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in the source code.
    pub name: String,
    /// Type, without qualifiers and typedefs.
    pub ty: Type,
}

/// A type, in the detail that the resolver needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// Integer, bool or enum.
    Int,
    /// Pointer to the named structure or integer.
    PtrTo(String),
    /// Any other type.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Alias,
    Func,
    FuncProto,
    Var,
    Datasec,
    DeclTag,
    Enum64,
    Float,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    name: u32,
    kind: Kind,
    flag: bool,
    vlen: usize,
    /// Size in bytes, or the id of the type referred to.
    size_or_type: u32,
    /// Offset of the data after the header.
    body: usize,
}

/// Parsed BTF.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    strings_len: usize,
    /// Offset of each type's header; index = type id - 1.
    types: Vec<u32>,
}

impl Btf {
    /// Parses the content of a file like [`VMLINUX`].
    pub fn parse(data: Vec<u8>) -> Result<Self, Error> {
        let u16_at = |at: usize| {
            data.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes)
        };
        if u16_at(0) != Some(MAGIC) || data.get(2) != Some(&1) {
            return Err(Error::NotBtf);
        }
        let header = u32_at(&data, 4)? as usize;
        let [type_off, type_len, str_off, str_len] =
            [8, 12, 16, 20].map(|at| u32_at(&data, at).map(|v| v as usize));
        let (start, len) = (header + type_off?, type_len?);
        let (strings, strings_len) = (header + str_off?, str_len?);
        if data.len() < start + len || data.len() < strings + strings_len {
            return Err(Error::Corrupt);
        }
        let mut btf = Self { data, strings, strings_len, types: Vec::new() };
        let mut at = start;
        while at < start + len {
            let header = btf.header(at)?;
            btf.types.push(u32::try_from(at).map_err(|_| Error::Corrupt)?);
            at = header.body + header.body_len();
        }
        if at == start + len { Ok(btf) } else { Err(Error::Corrupt) }
    }

    /// Parameters of a tracepoint, without the leading `void *__data`; `None` if the kernel has no
    /// such tracepoint or does not name its parameters.
    ///
    /// The typedefs `btf_trace_<event>` do not name parameters. The functions that call the probes
    /// do: `__traceiter_<event>` (5.10), `__probestub_<event>` (6.4), `__bpf_trace_<class>`
    /// (before).
    pub fn tracepoint(&self, event: &str) -> Option<Vec<Param>> {
        ["__traceiter_", "__probestub_", "__bpf_trace_"].iter().find_map(|prefix| {
            let (_, func) = self.find(Kind::Func, &format!("{prefix}{event}"))?;
            let proto = self.get(func.size_or_type)?;
            let params: Vec<_> = (1..proto.vlen).filter_map(|i| self.param(proto, i)).collect();
            (params.len() + 1 == proto.vlen && params.iter().all(|p| !p.name.is_empty()))
                .then_some(params)
        })
    }

    /// Parameters of a function; `None` if BTF has no such function. BTF lists functions that can
    /// be traced, so it lacks those that the compiler inlined.
    pub fn function(&self, name: &str) -> Option<Vec<Param>> {
        let (_, func) = self.find(Kind::Func, name)?;
        let proto = self.get(func.size_or_type)?;
        (0..proto.vlen).map(|i| self.param(proto, i)).collect()
    }

    /// Offset in bytes of a path:
    ///
    /// * `struct.member`, where the member may be inside of anonymous members;
    /// * `struct.member[ENUMERATOR]`: an element of the member, which is an array, or of the first
    ///   array in it (`mm_rss_stat.count`). If the element is a `percpu_counter`, its `count`.
    pub fn offset(&self, path: &str) -> Option<u32> {
        let (name, rest) = path.split_once('.')?;
        let (id, _) = self.find(Kind::Struct, name)?;
        let Some((member, index)) = rest.strip_suffix(']').and_then(|r| r.split_once('[')) else {
            return self.member(id, rest).map(|(offset, _)| offset);
        };
        let index = u32::try_from(self.enumerator(index)?).ok()?;
        let (mut offset, mut ty) = self.member(id, member)?;
        if self.get(self.plain(ty)?)?.kind == Kind::Struct {
            let (inner, array) = self.first_array(self.plain(ty)?)?;
            (offset, ty) = (offset.checked_add(inner)?, array);
        }
        let array = self.get(self.plain(ty)?)?;
        if array.kind != Kind::Array || index >= self.word(array.body + 8)? {
            return None;
        }
        let element = self.plain(self.word(array.body)?)?;
        let within = match self.get(element)? {
            // percpu_counter or atomic_long_t; where other structures keep a value is unknown.
            e if e.kind == Kind::Struct => {
                let count = self.member(element, "count");
                count.or_else(|| self.member(element, "counter"))?.0
            }
            _ => 0,
        };
        let from_start = index.checked_mul(self.size(element, MAX_DEPTH)?)?.checked_add(within)?;
        offset.checked_add(from_start)
    }

    /// Value of an enumerator of any enum.
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        self.headers()
            .filter(|(_, h)| matches!(h.kind, Kind::Enum | Kind::Enum64))
            .find_map(|(_, h)| self.enumerators(h).find(|(n, _)| *n == name).map(|(_, v)| v))
    }

    /// Names of the enumerators of an enum, by value.
    pub fn enum_names(&self, name: &str) -> BTreeMap<i64, &str> {
        let is_enum = |h: Header| matches!(h.kind, Kind::Enum | Kind::Enum64);
        self.headers()
            .find(|(_, h)| is_enum(*h) && self.name(*h) == name)
            .map_or_else(BTreeMap::new, |(_, h)| self.enumerators(h).map(|(n, v)| (v, n)).collect())
    }

    fn header(&self, at: usize) -> Result<Header, Error> {
        let info = u32_at(&self.data, at + 4)?;
        let kind = match (info >> 24) & 0x1f {
            1 => Kind::Int,
            2 => Kind::Ptr,
            3 => Kind::Array,
            4 => Kind::Struct,
            5 => Kind::Union,
            6 => Kind::Enum,
            7 => Kind::Fwd,
            // typedef, volatile, const, restrict, type tag
            8..=11 | 18 => Kind::Alias,
            12 => Kind::Func,
            13 => Kind::FuncProto,
            14 => Kind::Var,
            15 => Kind::Datasec,
            16 => Kind::Float,
            17 => Kind::DeclTag,
            19 => Kind::Enum64,
            _ => return Err(Error::Corrupt),
        };
        let header = Header {
            name: u32_at(&self.data, at)?,
            kind,
            flag: info >> 31 == 1,
            vlen: (info & 0xffff) as usize,
            size_or_type: u32_at(&self.data, at + 8)?,
            body: at + 12,
        };
        if self.data.len() < header.body + header.body_len() {
            return Err(Error::Corrupt);
        }
        Ok(header)
    }

    fn get(&self, id: u32) -> Option<Header> {
        let at = *self.types.get((id as usize).checked_sub(1)?)?;
        self.header(at as usize).ok()
    }

    fn headers(&self) -> impl Iterator<Item = (u32, Header)> {
        (1u32..).zip(&self.types).filter_map(|(id, at)| Some((id, self.header(*at as usize).ok()?)))
    }

    fn find(&self, kind: Kind, name: &str) -> Option<(u32, Header)> {
        self.headers().find(|(_, h)| h.kind == kind && self.name(*h) == name)
    }

    fn name(&self, header: Header) -> &str {
        self.string(header.name)
    }

    fn string(&self, at: u32) -> &str {
        let at = at as usize;
        if at >= self.strings_len {
            return "";
        }
        let rest = &self.data[self.strings + at..self.strings + self.strings_len];
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).unwrap_or("")
    }

    fn word(&self, at: usize) -> Option<u32> {
        u32_at(&self.data, at).ok()
    }

    /// The type without typedefs and qualifiers.
    fn plain(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            match self.get(id)? {
                h if h.kind == Kind::Alias => id = h.size_or_type,
                _ => return Some(id),
            }
        }
        None
    }

    fn param(&self, proto: Header, i: usize) -> Option<Param> {
        let at = proto.body + i * 8;
        let name = self.string(self.word(at)?).to_owned();
        // A variadic parameter (`...`) has no type.
        let plain = self.plain(self.word(at + 4)?).and_then(|id| self.get(id));
        let ty = match plain.map(|h| h.kind) {
            Some(Kind::Int | Kind::Enum | Kind::Enum64) => Type::Int,
            Some(Kind::Ptr) => {
                let target = plain.and_then(|h| self.get(self.plain(h.size_or_type)?));
                match target.map(|t| (t.kind, self.name(t))) {
                    Some((Kind::Struct | Kind::Union | Kind::Fwd | Kind::Int, name))
                        if !name.is_empty() =>
                    {
                        Type::PtrTo(name.to_owned())
                    }
                    _ => Type::Other,
                }
            }
            _ => Type::Other,
        };
        Some(Param { name, ty })
    }

    /// Name, type, offset in bits and "is a bitfield" of each member.
    fn members(&self, h: Header) -> impl Iterator<Item = (&str, u32, u32, bool)> {
        (0..h.vlen).filter_map(move |i| {
            let at = h.body + i * 12;
            let (name, ty, offset) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let (bits, bitfield) =
                if h.flag { (offset & 0x00ff_ffff, offset >> 24 != 0) } else { (offset, false) };
            Some((self.string(name), ty, bits, bitfield))
        })
    }

    /// Offset in bytes and type of a member, which may be inside of anonymous members.
    fn member(&self, id: u32, name: &str) -> Option<(u32, u32)> {
        self.member_within(id, name, &mut { MAX_ANONYMOUS })
    }

    /// The same; enters at most `left` anonymous members.
    fn member_within(&self, id: u32, name: &str, left: &mut u32) -> Option<(u32, u32)> {
        let h = self.get(id)?;
        if !matches!(h.kind, Kind::Struct | Kind::Union) {
            return None;
        }
        self.members(h).find_map(|(member, ty, bits, bitfield)| {
            if member == name {
                return (!bitfield && bits % 8 == 0).then_some((bits / 8, ty));
            }
            if member.is_empty() {
                *left = left.checked_sub(1)?;
                let (inner, ty) = self.member_within(self.plain(ty)?, name, left)?;
                return Some(((bits / 8).checked_add(inner)?, ty));
            }
            None
        })
    }

    fn first_array(&self, id: u32) -> Option<(u32, u32)> {
        self.members(self.get(id)?).find_map(|(_, ty, bits, _)| {
            (self.get(self.plain(ty)?)?.kind == Kind::Array).then_some((bits / 8, ty))
        })
    }

    fn size(&self, id: u32, depth: u32) -> Option<u32> {
        let h = self.get(self.plain(id)?)?;
        match h.kind {
            Kind::Ptr => Some(8),
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                Some(h.size_or_type)
            }
            Kind::Array if depth > 0 => {
                let element = self.size(self.word(h.body)?, depth - 1)?;
                element.checked_mul(self.word(h.body + 8)?)
            }
            _ => None,
        }
    }

    fn enumerators(&self, h: Header) -> impl Iterator<Item = (&str, i64)> {
        let step = if h.kind == Kind::Enum64 { 12 } else { 8 };
        (0..h.vlen).filter_map(move |i| {
            let at = h.body + i * step;
            let low = self.word(at + 4)?;
            let value = if h.kind == Kind::Enum64 {
                (u64::from(low) | u64::from(self.word(at + 8)?) << 32).cast_signed()
            } else if h.flag {
                i64::from(low.cast_signed())
            } else {
                i64::from(low)
            };
            Some((self.string(self.word(at)?), value))
        })
    }
}

impl Header {
    fn body_len(&self) -> usize {
        match self.kind {
            Kind::Int | Kind::Var | Kind::DeclTag => 4,
            Kind::Array => 12,
            Kind::Struct | Kind::Union | Kind::Datasec | Kind::Enum64 => self.vlen * 12,
            Kind::Enum | Kind::FuncProto => self.vlen * 8,
            Kind::Ptr | Kind::Fwd | Kind::Alias | Kind::Func | Kind::Float => 0,
        }
    }
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, Error> {
    let bytes = data.get(at..at + 4).ok_or(Error::Corrupt)?;
    bytes.try_into().map(u32::from_ne_bytes).map_err(|_| Error::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_data_than_btf_is_rejected() {
        for data in [vec![], vec![0; 24], b"\x9f\xeb\x02\0aaaaaaaaaaaaaaaaaaaa".to_vec()] {
            assert_eq!(Btf::parse(data).expect_err("rejected"), Error::NotBtf);
        }
    }

    /// Little-endian words of BTF.
    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn members_that_contain_themselves_do_not_delay_the_start() {
        let strings = b"\0s\0";
        // A union of eight anonymous members, each of which is that union; and a structure with it.
        let union = [vec![0, 5 << 24 | 8, 4], [0, 1, 0].repeat(8)].concat();
        let types = words(&[union, vec![1, 4 << 24 | 1, 4, 0, 1, 0]].concat());
        let len = u32::try_from(types.len()).expect("short");
        let header = words(&[u32::from(MAGIC) | 1 << 16, 24, 0, len, len, 3]);
        let btf = Btf::parse([header, types, strings.to_vec()].concat()).expect("parses");
        assert_eq!(btf.offset("s.m"), None);
    }

    proptest! {
        /// Any bytes after a valid magic give a value or an error, never a panic.
        #[test]
        fn hostile_bytes_never_panic(mut data in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
            bytes.append(&mut data);
            if let Ok(btf) = Btf::parse(bytes) {
                let _ = (btf.offset("a.b"), btf.tracepoint("x"), btf.function("x"));
                let _ = btf.enumerator("X");
            }
        }
    }
}
