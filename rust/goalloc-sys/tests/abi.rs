//! abi: the bindings say what `goalloc.h` says. The C compiler is asked for sizes, offsets, constants and the types of
//! functions, by a program that this test writes; and no function, structure or constant of the header is left out.
//!
//! `$GOALLOC_INCLUDE_DIR` or pkg-config has said at build time where the header is; `$CC` is the compiler (cc).
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::mem::{align_of, size_of, MaybeUninit};
use std::os::raw::{c_char, c_int, c_void};
use std::process::Command;
use std::{env, fs, ptr};

use goalloc_sys as sys;

const INCLUDE: &str = env!("GOALLOC_INCLUDE_DIR");

fn header() -> String {
    let path = format!("{}/goalloc.h", INCLUDE);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {}; GOALLOC_INCLUDE_DIR names its directory", path, error))
}

/// Compiles and runs a program that includes goalloc.h, and gives what it prints.
fn run_c(name: &str, functions: &str, body: &str) -> String {
    let dir = env::temp_dir().join(format!("goalloc-sys-{}-{}", name, std::process::id()));
    fs::create_dir(&dir).unwrap();
    let source = dir.join("program.c");
    let program = dir.join("program");
    let text = format!(
        "#include <stdio.h>\n#include <goalloc.h>\n{}\nint main(void)\n{{\n{}    return 0;\n}}\n",
        functions, body
    );
    fs::write(&source, text).unwrap();
    let compiled = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_string()))
        .args(["-std=c11", "-Wall", "-Werror", "-Wno-unused", "-D_GNU_SOURCE", "-I", INCLUDE, "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .unwrap();
    let printed = compiled.status.success().then(|| Command::new(&program).output().unwrap());
    fs::remove_dir_all(&dir).unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    String::from_utf8(printed.unwrap().stdout).unwrap()
}

/// One line a structure and field, the same from both compilers.
macro_rules! structures {
    ($rust:ident, $c:ident; $($name:ident { $($field:ident),* })*) => { $(
        writeln!($rust, "{} size {} align {}", stringify!($name), size_of::<sys::$name>(), align_of::<sys::$name>())
            .unwrap();
        writeln!($c, "    printf(\"{0} size %zu align %zu\\n\", sizeof({0}), _Alignof({0}));", stringify!($name))
            .unwrap();
        let one = MaybeUninit::<sys::$name>::zeroed();
        // All fields, so that none that the structure has is missing here.
        #[allow(clippy::unneeded_field_pattern)]
        let sys::$name { $($field: _),* } = unsafe { one.assume_init() };
        $(
            let field = unsafe { ptr::addr_of!((*one.as_ptr()).$field) };
            let offset = field as usize - one.as_ptr() as usize;
            writeln!($rust, "{}.{} at {} size {}", stringify!($name), stringify!($field), offset, size_of_target(field))
                .unwrap();
            writeln!(
                $c,
                "    printf(\"{0}.{1} at %zu size %zu\\n\", __builtin_offsetof({0}, {1}), sizeof((({0} *)0)->{1}));",
                stringify!($name),
                stringify!($field)
            )
            .unwrap();
        )*
    )* };
}

fn size_of_target<T>(_p: *const T) -> usize {
    size_of::<T>()
}

#[test]
fn structures_have_the_layout_of_the_header() {
    let (mut rust, mut c) = (String::new(), String::new());
    structures! { rust, c;
        goalloc_options { struct_size, socket_path, label, flags, limit_bytes, timeout_ms, group }
        goalloc_stats_t {
            struct_size, live_objects, live_bytes, committed_bytes, released_bytes, metadata_bytes, sessions,
            leased_spans, roots, session_held_bytes, session_rpcs, free_bytes, arena_bytes, memory_limit_bytes,
            max_memory_bytes, peak_committed_bytes, group_live_objects, group_live_bytes
        }
        goalloc_event { struct_size, kind, session, pid, cause, label, group, root }
        goalloc_root_info { name, p, size, type_tag, session }
        goalloc_collect_options { struct_size, flags, max_pause_us }
        goalloc_collect_result {
            struct_size, garbage_objects, garbage_bytes, freed_objects, freed_bytes, pause_us, blocking_pid
        }
    }
    assert_eq!(rust, run_c("structures", "", &c));

    let header = header();
    let declared: BTreeSet<_> = header.lines().filter_map(|line| line.strip_prefix("typedef struct ")).collect();
    for name in declared {
        let name = name.split_whitespace().next().unwrap();
        assert!(rust.contains(&format!("{} size", name)), "{} is not in the bindings", name);
    }
}

#[test]
fn constants_have_the_values_of_the_header() {
    let (mut rust, mut c) = (String::new(), String::new());
    macro_rules! constants {
        ($($name:ident)*) => { $(
            writeln!(rust, "{} {}", stringify!($name), sys::$name).unwrap();
            writeln!(c, "    printf(\"{0} %llu\\n\", (unsigned long long)({0}));", stringify!($name)).unwrap();
        )* };
    }
    constants! {
        GOALLOC_VERSION_MAJOR GOALLOC_VERSION_MINOR GOALLOC_VERSION_PATCH
        GOALLOC_ATTACH_RECLAIM GOALLOC_ATTACH_READONLY GOALLOC_ATTACH_DUMP GOALLOC_ATTACH_WAIT
        GOALLOC_ATTACH_OPAQUE GOALLOC_COLLECT_REPORT GOALLOC_COLLECT_ALL GOALLOC_COLLECT_OFFSETS
        GOALLOC_COLLECT_PAST_END GOALLOC_COLLECT_TRUST_KERNEL
        GOALLOC_ROOT_NAME_MAX GOALLOC_GROUP_NAME_MAX GOALLOC_ROOT_REINIT
        GOALLOC_EVENT_SESSION_END GOALLOC_EVENT_ROOT_SET GOALLOC_EVENT_ROOT_REMOVED GOALLOC_EVENT_HEAP_GONE
        GOALLOC_EVENT_MEMORY_SHORT GOALLOC_EVENT_LOST GOALLOC_EVENT_STOPPING
        GOALLOC_CAUSE_DETACHED GOALLOC_CAUSE_DIED
    }
    assert_eq!(rust, run_c("constants", "", &c));

    // What stands for C alone has no value.
    let others = [
        "GOALLOC_API",
        "GOALLOC_CHECK",
        "GOALLOC_ALLOC",
        "GOALLOC_OPTIONS_INIT",
        "GOALLOC_COLLECT_OPTIONS_INIT",
        "GOALLOC_H",
    ];
    for line in header().lines().filter_map(|line| line.strip_prefix("#define ")) {
        let name = line.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        assert!(others.contains(&name) || rust.contains(&format!("{} ", name)), "{} is not in the bindings", name);
    }
}

type P = *mut c_void;
type Text = *const c_char;

#[test]
fn functions_have_the_types_of_the_header() {
    let mut c = String::new();
    let mut names = BTreeSet::new();
    // The type of Rust, which the bindings must have, and the one of C, which the header must have. Linking this test
    // takes each of them from the library.
    macro_rules! functions {
        ($($name:ident: fn($($rust:ty),*) $(-> $rust_ret:ty)? = $ret:literal, $arguments:literal;)*) => { $(
            let one: unsafe extern "C" fn($($rust),*) $(-> $rust_ret)? = sys::$name;
            assert_ne!(one as usize, 0);
            writeln!(
                c,
                "_Static_assert(__builtin_types_compatible_p(__typeof__({0}), {1}({2})), \"{0}\");",
                stringify!($name), $ret, $arguments
            ).unwrap();
            names.insert(stringify!($name));
        )* };
    }
    functions! {
        goalloc_attach: fn(*const sys::goalloc_options) -> c_int = "int", "const goalloc_options *";
        goalloc_attach_error: fn() -> Text = "const char *", "void";
        goalloc_set_label: fn(Text) -> c_int = "int", "const char *";
        goalloc_detach: fn() -> c_int = "int", "void";
        goalloc_heap_id: fn() -> u64 = "uint64_t", "void";
        goalloc_is_current: fn() -> c_int = "int", "void";
        goalloc_event_fd: fn() -> c_int = "int", "void";
        goalloc_next_event: fn(*mut sys::goalloc_event) -> c_int = "int", "goalloc_event *";
        goalloc_malloc: fn(usize) -> P = "void *", "size_t";
        goalloc_malloc_noscan: fn(usize) -> P = "void *", "size_t";
        goalloc_calloc: fn(usize, usize) -> P = "void *", "size_t, size_t";
        goalloc_calloc_noscan: fn(usize, usize) -> P = "void *", "size_t, size_t";
        goalloc_realloc: fn(P, usize) -> P = "void *", "void *, size_t";
        goalloc_aligned_alloc: fn(usize, usize) -> P = "void *", "size_t, size_t";
        goalloc_free: fn(P) = "void", "void *";
        goalloc_free_checked: fn(P) -> c_int = "int", "void *";
        goalloc_usable_size: fn(*const c_void) -> usize = "size_t", "const void *";
        goalloc_contains: fn(*const c_void) -> c_int = "int", "const void *";
        goalloc_publish: fn(P) -> c_int = "int", "void *";
        goalloc_publish_graph: fn(P, *mut usize) -> c_int = "int", "void *, size_t *";
        goalloc_adopt: fn(P) -> c_int = "int", "void *";
        goalloc_link: fn(*mut P, P) -> c_int = "int", "void **, void *";
        goalloc_unlink_free: fn(*mut P, P) -> c_int = "int", "void **, void *";
        goalloc_settle: fn() -> c_int = "int", "void";
        goalloc_root_set: fn(Text, P) -> c_int = "int", "const char *, void *";
        goalloc_root_get: fn(Text, *mut P) -> c_int = "int", "const char *, void **";
        goalloc_root_compare_and_set: fn(Text, P, P) -> c_int = "int", "const char *, void *, void *";
        goalloc_root_wait: fn(Text, c_int, *mut P) -> c_int = "int", "const char *, int, void **";
        goalloc_root_get_or_create: fn(Text, usize, u64, sys::goalloc_init_fn, P, *mut P, *mut c_int) -> c_int =
            "int", "const char *, size_t, uint64_t, int (*)(void *, size_t, void *), void *, void **, int *";
        goalloc_root_list: fn(Text, sys::goalloc_each_fn, P) -> c_int =
            "int", "const char *, int (*)(const goalloc_root_info *, void *), void *";
        goalloc_offset: fn(*const c_void) -> u64 = "uint64_t", "const void *";
        goalloc_pointer: fn(u64) -> P = "void *", "uint64_t";
        goalloc_stats: fn(*mut sys::goalloc_stats_t) -> c_int = "int", "goalloc_stats_t *";
        goalloc_trim: fn() -> c_int = "int", "void";
        goalloc_collect: fn(*const sys::goalloc_collect_options, *mut sys::goalloc_collect_result) -> c_int =
            "int", "const goalloc_collect_options *, goalloc_collect_result *";
        goalloc_private_roots: fn(*const c_void, usize) -> c_int = "int", "const void *, size_t";
        goalloc_private_roots_remove: fn(*const c_void) -> c_int = "int", "const void *";
        goalloc_strerror: fn(c_int) -> Text = "const char *", "int";
        goalloc_version: fn() -> Text = "const char *", "void";
    }
    run_c("functions", &c, "");

    for line in header().lines().filter(|line| line.starts_with("GOALLOC_API ")) {
        let found = names.iter().any(|name| line.contains(&format!("{}(", name)));
        assert!(found, "this function is not in the bindings: {}", line);
    }
}

#[test]
fn the_library_is_of_the_version_of_the_bindings() {
    let version = unsafe { std::ffi::CStr::from_ptr(sys::goalloc_version()) }.to_str().unwrap();
    let major = version.split('.').next().unwrap();
    assert_eq!(major, sys::GOALLOC_VERSION_MAJOR.to_string());
}
