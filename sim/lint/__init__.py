"""Checks of HLS C++ for what Vitis would refuse, skip, or turn into other hardware."""
