//! Which types may lie in the heap, and the numbers by which processes see that they mean the same one.
//!
//! A type in the heap is used by several programs at once, at one address, and outlives each of them. [`Shareable`] is
//! the promise that it bears that. It is implemented here for what the language has, and by the macro
//! [`shareable!`](crate::shareable!) for structures whose fields are all shareable, which needs no `unsafe`.
use std::mem::{align_of, size_of};
use std::sync::atomic;

/// Types whose values several processes may use at one address, and that bear the death of a process that writes them.
///
/// # Safety
///
/// A type that implements it has all of these properties:
///
/// - It holds no reference, pointer or handle to anything outside the heap, no function pointer and no vtable (code
///   lies at other addresses elsewhere), and no number that means something in one process only, such as a thread's.
/// - It is `Sync` between processes, too: a shared reference changes it by atomic operations alone, or under a
///   [`Mutex`](crate::Mutex). `std::sync::Mutex` is not such a type: its futex is private to a process.
/// - Its layout is the same in all programs that use it: it is `#[repr(C)]` or `#[repr(transparent)]`.
/// - Each field is valid whatever the others are, and each byte of a number whatever its other bytes are: a process may
///   die between any two stores. An `enum` with fields, or a length beside what it counts, is not like that.
/// - [`HAS_POINTERS`](Shareable::HAS_POINTERS) is true if it holds pointers into the heap.
pub unsafe trait Shareable: Send + Sync + 'static {
    /// True if the type holds pointers into the heap, such as a [`Link`](crate::Link).
    const HAS_POINTERS: bool;

    /// The type's name, part of [`type_tag()`]. It has to be the same in all programs that share the type, which
    /// `std::any::type_name()`, the default, is if they have it from the same crate.
    ///
    /// A name of one's own, as [`shareable!`](crate::shareable!) gives by `as`, counts for the structure itself. A
    /// [`Mutex`](crate::Mutex) or an array of it has the default name, in which the structure's crate and module are.
    /// So a root for programs of several crates is a structure with a name, which has the mutex as a field.
    fn name() -> &'static str {
        std::any::type_name::<Self>()
    }
}

/// Shareable types of which all bytes zero are a valid value, so that memory for any number of them needs no stack.
///
/// # Safety
///
/// All bytes zero are a valid value of the type.
pub unsafe trait Zeroable: Shareable {}

/// The number that a root of this type has: FNV-1a, 64 bits, of the bytes of its name, then its size, its alignment and
/// 0 (of slices: the element's, and 1), each as 8 bytes, the lowest first; without the top bit, which is
/// `GOALLOC_ROOT_REINIT`; and 1 instead of 0, which stands for "no type". Programs in other languages give
/// `goalloc_root_get_or_create()` the same one.
pub fn type_tag<T: Shareable>() -> u64 {
    tag_of(T::name(), size_of::<T>(), align_of::<T>(), false)
}

/// The same for slices.
pub(crate) fn slice_tag<T: Shareable>() -> u64 {
    tag_of(T::name(), size_of::<T>(), align_of::<T>(), true)
}

/// FNV-1a, 64 bits.
fn tag_of(name: &str, size: usize, align: usize, is_slice: bool) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let numbers = [size as u64, align as u64, is_slice as u64];
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());

    for byte in name.bytes().chain(bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (hash & !goalloc_sys::GOALLOC_ROOT_REINIT).max(1)
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => { $(
        // SAFETY: a number, a bool, or an atomic one, or nothing at all. A store of it is one store; or, of a number,
        // several, of bytes that are valid whatever the others are.
        unsafe impl Shareable for $type {
            const HAS_POINTERS: bool = false;
        }
        // SAFETY: as above.
        unsafe impl Zeroable for $type {}
    )* };
}

// A u128 or i128 takes two stores: after a death it may be half as it was and half as it was to be. On x86-64 rustc
// aligns it to 8 up to 1.76, and to 16 from 1.77 on: the alignment is in the tag, so these programs are told.
plain!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, bool, ());
plain!(atomic::AtomicU8, atomic::AtomicU16, atomic::AtomicU32, atomic::AtomicU64, atomic::AtomicUsize);
plain!(atomic::AtomicI8, atomic::AtomicI16, atomic::AtomicI32, atomic::AtomicI64, atomic::AtomicIsize);
plain!(atomic::AtomicBool);

// SAFETY: four bytes that are stored at once; 0 is a character.
unsafe impl Shareable for char {
    const HAS_POINTERS: bool = false;
}
// SAFETY: as above.
unsafe impl Zeroable for char {}

// SAFETY: elements are fields, each valid by itself; the length is not in the heap.
unsafe impl<T: Shareable> Shareable for [T] {
    const HAS_POINTERS: bool = T::HAS_POINTERS;
}

// SAFETY: elements are fields, each valid by itself.
unsafe impl<T: Shareable, const N: usize> Shareable for [T; N] {
    const HAS_POINTERS: bool = T::HAS_POINTERS;
}
// SAFETY: as above.
unsafe impl<T: Zeroable, const N: usize> Zeroable for [T; N] {}

/// Declares a structure for the heap: `#[repr(C)]`, and [`Shareable`] if all its fields are, which the compiler checks.
/// With `#[zeroable]` before it, it is [`Zeroable`] as well.
///
/// Its name is what follows `as`, else the path of the module and its own; programs that do not have it from the same
/// crate give one.
///
/// ```
/// use std::sync::atomic::AtomicU64;
///
/// goalloc::shareable! {
///     /// What is counted.
///     #[zeroable]
///     pub struct Counters as "example.counters.1" {
///         pub requests: AtomicU64,
///         pub failures: [AtomicU64; 5],
///     }
/// }
/// ```
///
/// What a process alone can use does not get into it:
///
/// ```compile_fail,E0277
/// goalloc::shareable! {
///     struct Wrong {
///         name: String,
///     }
/// }
/// ```
#[macro_export]
macro_rules! shareable {
    (@zero [$name:ident] [$($type:ty),*] $(#[doc = $doc:literal])* #[zeroable] $($rest:tt)*) => {
        const _: () = {
            const fn is<T: $crate::Zeroable>() {}
            $(is::<$type>();)*
        };
        // SAFETY: all fields are zeroable.
        unsafe impl $crate::Zeroable for $name {}
    };
    (@zero [$name:ident] [$($type:ty),*] $(#[doc = $doc:literal])*) => {};
    (@name $name:ident) => { concat!(module_path!(), "::", stringify!($name)) };
    (@name $name:ident $text:literal) => { $text };
    (
        $(#[doc = $doc:literal])*
        $(#[zeroable $($zeroable:tt)?])?
        $vis:vis struct $name:ident $(as $text:literal)? {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[repr(C)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type),*
        }
        // SAFETY: the layout is C's, and each field's type, being Shareable, has the properties.
        unsafe impl $crate::Shareable for $name {
            const HAS_POINTERS: bool = false $(|| <$type as $crate::Shareable>::HAS_POINTERS)*;
            fn name() -> &'static str {
                $crate::shareable!(@name $name $($text)?)
            }
        }
        $crate::shareable!(@zero [$name] [$($type),*] $(#[zeroable $($zeroable)?])?);
    };
}
