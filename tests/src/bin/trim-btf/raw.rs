//! BTF as it is stored: types as words, by id. Not here: the meaning of the types.

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) const INT: u32 = 1;
pub(crate) const PTR: u32 = 2;
pub(crate) const ARRAY: u32 = 3;
pub(crate) const STRUCT: u32 = 4;
pub(crate) const UNION: u32 = 5;
pub(crate) const ENUM: u32 = 6;
pub(crate) const FWD: u32 = 7;
pub(crate) const TYPEDEF: u32 = 8;
pub(crate) const VOLATILE: u32 = 9;
pub(crate) const CONST: u32 = 10;
pub(crate) const RESTRICT: u32 = 11;
pub(crate) const FUNC: u32 = 12;
pub(crate) const FUNC_PROTO: u32 = 13;
pub(crate) const VAR: u32 = 14;
pub(crate) const DATASEC: u32 = 15;
pub(crate) const FLOAT: u32 = 16;
pub(crate) const DECL_TAG: u32 = 17;
pub(crate) const TYPE_TAG: u32 = 18;
pub(crate) const ENUM64: u32 = 19;

pub(crate) const MAGIC: u16 = 0xeb9f;
pub(crate) const HEADER_LEN: u32 = 24;
/// A forward declaration of a union instead of a struct.
pub(crate) const FWD_UNION: u32 = 1 << 31;
/// Maximum length of a chain of typedefs and qualifiers.
pub(crate) const DEPTH: u32 = 32;

/// A stored type: three words, and more depending on its kind.
#[derive(Debug, Clone)]
pub(crate) struct Type {
    /// Offset in the strings, of the full BTF or of the trimmed one.
    pub(crate) name: u32,
    pub(crate) info: u32,
    /// Size in bytes, or the id of the type referred to.
    pub(crate) third: u32,
    pub(crate) body: Vec<u32>,
}

impl Type {
    pub(crate) fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }
}

/// Number of words after the first three.
pub(crate) fn body_words(info: u32) -> Result<usize> {
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
pub(crate) struct Full {
    pub(crate) strings: Vec<u8>,
    /// Index = type id - 1.
    pub(crate) types: Vec<Type>,
}

impl Full {
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
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

    pub(crate) fn get(&self, id: u32) -> Result<&Type> {
        let index = (id as usize).checked_sub(1);
        index.and_then(|i| self.types.get(i)).with_context(|| format!("no type {id}"))
    }

    pub(crate) fn string(&self, at: u32) -> Result<&str> {
        let rest = self.strings.get(at as usize..).context("a name outside of the strings")?;
        let end = rest.iter().position(|b| *b == 0).context("a name without an end")?;
        Ok(std::str::from_utf8(&rest[..end])?)
    }

    pub(crate) fn name(&self, ty: &Type) -> Result<&str> {
        self.string(ty.name)
    }

    /// The type behind typedefs, qualifiers and tags; 0 is void.
    pub(crate) fn plain(&self, mut id: u32) -> Result<u32> {
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
