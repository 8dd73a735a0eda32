"""The generated C++ on this computer: compiled, driven as a device, and the data of its test bench."""
