/* Included by every native module: which source it was compiled from (core/holdfast_core/native_build.py). */
static const char holdfast_source[] __attribute__((used)) = HOLDFAST_SOURCE;
