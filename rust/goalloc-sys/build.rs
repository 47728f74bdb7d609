//! Finds libgoalloc: in the directory $GOALLOC_LIB_DIR if that is set, else by pkg-config (which $PKG_CONFIG may name).
//! Tells cargo how to link, dependent crates where the library is (DEP_GOALLOC_LIBDIR), and this crate's tests where
//! goalloc.h is. Called by cargo.
use std::env;
use std::process::{exit, Command};

fn fail(why: &str) -> ! {
    eprintln!("goalloc-sys: {}", why);
    eprintln!("goalloc-sys: install libgoalloc-dev, or have PKG_CONFIG_PATH name the directory of goalloc.pc,");
    eprintln!("goalloc-sys: or GOALLOC_LIB_DIR the one of libgoalloc.so");
    exit(1);
}

/// What pkg-config prints, in words.
fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_string());
    let done = match Command::new(&program).args(arguments).arg("goalloc >= 1.0").output() {
        Ok(done) => done,
        Err(error) => fail(&format!("{} can't be run: {}", program, error)),
    };
    if !done.status.success() {
        fail(String::from_utf8_lossy(&done.stderr).trim());
    }
    String::from_utf8_lossy(&done.stdout).split_whitespace().map(str::to_string).collect()
}

fn main() {
    let cross = env::var("HOST") != env::var("TARGET");
    let mut include = env::var("GOALLOC_INCLUDE_DIR").ok();

    for name in ["GOALLOC_LIB_DIR", "GOALLOC_INCLUDE_DIR", "PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR"] {
        println!("cargo:rerun-if-env-changed={}", name);
    }
    println!("cargo:rerun-if-changed=build.rs");
    match env::var("GOALLOC_LIB_DIR") {
        Ok(dir) => {
            println!("cargo:rustc-link-search=native={}", dir);
            println!("cargo:rustc-link-lib=dylib=goalloc");
            println!("cargo:libdir={}", dir);
        }
        Err(_) => {
            if cross && env::var("PKG_CONFIG").is_err() && env::var("PKG_CONFIG_LIBDIR").is_err() {
                fail("cross-compiling: PKG_CONFIG or PKG_CONFIG_LIBDIR has to say what knows the target's libraries");
            }
            for word in pkg_config(&["--libs"]) {
                if let Some(dir) = word.strip_prefix("-L") {
                    println!("cargo:rustc-link-search=native={}", dir);
                } else if let Some(library) = word.strip_prefix("-l") {
                    println!("cargo:rustc-link-lib=dylib={}", library);
                }
            }
            println!("cargo:libdir={}", pkg_config(&["--variable=libdir"]).join(" "));
            include = include.or_else(|| Some(pkg_config(&["--variable=includedir"]).join(" ")));
        }
    }
    println!("cargo:rustc-env=GOALLOC_INCLUDE_DIR={}", include.unwrap_or_default());
}
