//! Cgroups created and removed: the path of each, recorded before an event refers to it.
//!
//! An event names a cgroup by its id. After a container is killed its cgroup is soon removed, and
//! then the id cannot be resolved on the host. So the path is recorded when the cgroup is created,
//! and user space keeps it for a while after the removal.
//!
//! `cgroup_mkdir` and `cgroup_rmdir` (kernel/cgroup/cgroup.c) fire for every hierarchy; only the
//! one that charges memory counts. They have a ring buffer of their own, so that a process that
//! creates cgroups in a loop cannot displace OOM kills, and they do not wake user space, which
//! reads the buffer several times per second.
//!
//! Kernels: all from 5.10 on with cgroups.

use core::mem::offset_of;

use crate::{
    layout,
    loss::Loss,
    spec::{Arg, Field, Metric, Need, Probe, Program, Shape, Unit},
};

/// The cgroup, and its hierarchy.
const FIELDS: [Field; 7] = {
    let [a, b, c, d, e, f] = layout::CGROUP_OF_TASK;
    [layout::CGROUP_ROOT, a, b, c, d, e, f]
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "cgroups",
    about: "paths of cgroups, recorded at creation for events after their removal",
    programs: &[
        Program {
            name: "cgroup_gone",
            event: "cgroup:cgroup_rmdir",
            args: &[Arg::ptr("cgrp", "ARG_GONE_CGROUP", "cgroup")],
            one_of: &[],
            fields: &FIELDS,
            need: Need::Required,
        },
        Program {
            name: "cgroup_made",
            event: "cgroup:cgroup_mkdir",
            args: &[
                Arg::ptr("cgrp", "ARG_MADE_CGROUP", "cgroup"),
                Arg::ptr("path", "ARG_MADE_PATH", "char"),
            ],
            one_of: &[],
            fields: &FIELDS,
            need: Need::Required,
        },
    ],
    metrics: &[
        Metric {
            name: "cgroups_created",
            unit: Unit::None,
            help: "Cgroups created in the hierarchy that charges memory",
            shape: Shape::Counter { at: offset_of!(State, made) / 8 },
            labels: &[],
        },
        Metric {
            name: "cgroups_removed",
            unit: Unit::None,
            help: "Cgroups removed from the hierarchy that charges memory",
            shape: Shape::Counter { at: offset_of!(State, gone) / 8 },
            labels: &[],
        },
    ],
    losses: &[Loss::CgroupNamesFull],
};

#[repr(C)]
struct State {
    made: u64,
    gone: u64,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{
        helpers::generated::bpf_probe_read_kernel_str,
        macros::{map, raw_tracepoint},
        maps::RingBuf,
        programs::RawTracePointContext,
    };

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args,
            count::{Counters, row},
            lost::lost,
            read::{Probed, read},
            task,
        },
        event::{CgroupGone, CgroupMade, PATH, Tag},
        layout::OFF_CGROUP_ROOT,
        loss::Loss,
        probe_id::Id,
        spec::Probe,
    };

    args::arg_global!(ARG_MADE_CGROUP, ARG_MADE_PATH, ARG_GONE_CGROUP);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::cgroups;
        const PROBE: &'static Probe = &PROBE;
    }

    /// Room for about 470 created cgroups that user space has not read yet.
    #[map]
    static CGROUPS: RingBuf = RingBuf::with_byte_size(128 * 1024, 0);

    /// BPF_RB_NO_WAKEUP.
    const QUIETLY: u64 = 1;

    /// Whether memory can be charged to it: it is in the hierarchy of the cgroup that charges the
    /// current task's memory.
    #[inline(always)]
    fn charges_memory(cgroup: u64) -> bool {
        let ours = task::memory_cgroup::<Probed>(task::current());
        read::<u64>(cgroup, &OFF_CGROUP_ROOT) == read::<u64>(ours, &OFF_CGROUP_ROOT)
    }

    #[raw_tracepoint(tracepoint = "cgroup_mkdir")]
    fn cgroup_made(ctx: RawTracePointContext) -> u32 {
        let cgroup = args::get(&ctx, &ARG_MADE_CGROUP);
        if !charges_memory(cgroup) {
            return 0;
        }
        if let Some(row) = row::<State>() {
            row.made += 1;
        }
        let id = || task::cgroup_id::<Probed>(cgroup);
        let Some(mut entry) = CGROUPS.reserve::<CgroupMade>(0) else {
            lost!(State, Loss::CgroupNamesFull, "created cgroup", id());
            return 0;
        };
        let made = entry.as_mut_ptr();
        // SAFETY: `made` is the reserved record, too large for the stack, so it is written in
        // place; the helper ends the path within PATH bytes and checks the kernel's address
        // itself. Bytes that it does not write are from older records.
        unsafe {
            (*made).tag = Tag::CgroupMade as u32;
            (*made).id = id();
            let path = args::get(&ctx, &ARG_MADE_PATH);
            let len = bpf_probe_read_kernel_str(
                (&raw mut (*made).path).cast(),
                PATH as u32,
                path as *const _,
            );
            (*made).path_len = len as u32;
        }
        entry.submit(QUIETLY);
        0
    }

    #[raw_tracepoint(tracepoint = "cgroup_rmdir")]
    fn cgroup_gone(ctx: RawTracePointContext) -> u32 {
        let cgroup = args::get(&ctx, &ARG_GONE_CGROUP);
        if !charges_memory(cgroup) {
            return 0;
        }
        if let Some(row) = row::<State>() {
            row.gone += 1;
        }
        let id = || task::cgroup_id::<Probed>(cgroup);
        let Some(mut entry) = CGROUPS.reserve::<CgroupGone>(0) else {
            lost!(State, Loss::CgroupNamesFull, "removed cgroup", id());
            return 0;
        };
        entry.write(CgroupGone { tag: Tag::CgroupGone as u32, unused: 0, id: id() });
        entry.submit(QUIETLY);
        0
    }
}
