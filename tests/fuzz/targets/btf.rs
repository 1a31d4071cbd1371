//! The kernel's BTF: the parser, and the plan that the daemon makes from it.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_core::btf::{
    reader::Btf,
    resolve::{Host, plan},
};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(btf) = Btf::parse(data.to_vec()) else { return Corpus::Keep };
    for memory_on_v1 in [false, true] {
        plan(Ok(&btf), Host { memory_on_v1 });
    }
    // The names of the fixed seeds: the plan's are long.
    for path in ["s.m", "s.m[E]", "s.t.m"] {
        let _ = btf.offset(path);
    }
    let _ = (btf.function("f"), btf.tracepoint("t"), btf.enumerator("E"), btf.enum_names("e"));
    Corpus::Keep
});
