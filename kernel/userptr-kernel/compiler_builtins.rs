//! An empty stand-in for the compiler's run-time library. The kernel supplies `memcpy` and its kin.
#![allow(internal_features)]
#![feature(compiler_builtins)]
#![compiler_builtins]
#![no_builtins]
#![no_std]
