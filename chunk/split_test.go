package chunk_test

const testPol = 0x3DA3358B4DC173
