# Stands in for Vitis HLS and Vivado: every command that Tcl does not know is recorded, and those whose answer the scripts
# use are answered from the block design that was recorded so far. It knows which pins a core has, not what a core does.
#
# Arguments: script, file for the record, then key value pairs of the scenario:
#   masters       AXI masters of the generated core
#   high          1 if the processor has memory above 2 GB
#   board_parts   board parts that the catalogue has
#   timing        text of the timing summary
#   clock         MHz that PL0 really gets
#   port_clock    MHz that the clocking wizard really gives; port_taken: that the processor's ports say
#   port_bits     width of the core's masters
#   progress      of the implementation run

lassign $argv script record_name
array set scenario [lrange $argv 2 end]
set record [open $record_name w]
array set cells {}
array set settings {}

proc answer_pins {cell kind} {
    upvar #0 settings settings scenario scenario
    switch -glob $kind {
        *:zynq_ultra_ps_e {
            set pins {pl_clk0 pl_resetn0 maxihpm0_fpd_aclk}
            set buses {M_AXI_HPM0_FPD}
            foreach {slot port} {0 hpc0 1 hpc1 2 hp0 3 hp1 4 hp2 5 hp3} {
                if {[info exists settings($cell,CONFIG.PSU__USE__S_AXI_GP$slot)]
                    && $settings($cell,CONFIG.PSU__USE__S_AXI_GP$slot)} {
                    lappend pins saxi${port}_fpd_aclk
                    lappend buses S_AXI_[string toupper $port]_FPD
                }
            }
            if {[info exists settings($cell,CONFIG.PSU__USE__IRQ0)]} {
                lappend pins pl_ps_irq0
            }
        }
        *:systolora_top:* {
            set pins {ap_clk ap_rst_n interrupt}
            set buses [concat s_axi_control $scenario(masters)]
        }
        *:smartconnect {
            set pins {aclk aresetn}
            if {[info exists settings($cell,CONFIG.NUM_CLKS)] && $settings($cell,CONFIG.NUM_CLKS) == 2} {
                lappend pins aclk1
            }
            set buses {}
            for {set index 0} {$index < $settings($cell,CONFIG.NUM_SI)} {incr index} {
                lappend buses [format S%02d_AXI $index]
            }
            for {set index 0} {$index < $settings($cell,CONFIG.NUM_MI)} {incr index} {
                lappend buses [format M%02d_AXI $index]
            }
        }
        *:axi_intc { set pins {s_axi_aclk s_axi_aresetn intr irq}; set buses {s_axi} }
        *:axi_gpio { set pins {s_axi_aclk s_axi_aresetn gpio_io_i gpio2_io_i}; set buses {S_AXI} }
        *:xlconcat { set pins {In0 dout}; set buses {} }
        *:xlconstant { set pins {dout}; set buses {} }
        *:clk_wiz { set pins {clk_in1 reset clk_out1 locked}; set buses {} }
        *:c_counter_binary { set pins {CLK SCLR Q}; set buses {} }
        *:xlslice { set pins {Din Dout}; set buses {} }
        *:proc_sys_reset { set pins {dcm_locked slowest_sync_clk ext_reset_in peripheral_aresetn interconnect_aresetn}; set buses {} }
        default { error "the recorder knows no core $kind" }
    }
    return [list $pins $buses]
}

# `name` if it is a pin (which = 0) or bus (which = 1) of a cell of the design, else nothing, as Vivado answers.
proc answer_pin {name which} {
    upvar #0 cells cells
    lassign [split $name /] cell pin
    if {![info exists cells($cell)] || $pin ni [lindex [answer_pins $cell $cells($cell)] $which]} {
        return {}
    }
    return $name
}

proc answer_segment {name} {
    upvar #0 scenario scenario
    if {[regexp {/SAXIGP([0-5])/HP(C?)([0-3])_(DDR_LOW|DDR_HIGH|QSPI|LPS_OCM)$} $name -> slot coherent index kind]} {
        if {$slot != $index + ($coherent eq "" ? 2 : 0) || ($kind eq "DDR_HIGH" && !$scenario(high))} {
            return {}
        }
        return $name
    }
    regexp {^(.*)/Reg$} $name -> bus
    return [expr {[answer_pin $bus 1] eq $bus ? $name : ""}]
}

proc write_text {name text} {
    file mkdir [file dirname $name]
    set channel [open $name w]
    puts $channel $text
    close $channel
}

proc answer {command arguments} {
    upvar #0 cells cells settings settings scenario scenario work work
    set last [lindex $arguments end]
    switch $command {
        get_board_parts { return $scenario(board_parts) }
        create_project { set work [lindex $arguments 2]; file mkdir $work }
        create_bd_cell { set cells($last) [lindex $arguments 3]; return $last }
        get_bd_cells { return [expr {[info exists cells($last)] ? $last : [error "no cell $last"]}] }
        get_bd_pins { return [answer_pin $last 0] }
        get_bd_intf_pins { return [answer_pin $last 1] }
        get_bd_addr_spaces {
            regsub {/Data_} $last / bus
            return [expr {[answer_pin $bus 1] ne "" || $last eq "zynq_ultra_ps_e_0/Data" ? $last : ""}]
        }
        get_bd_addr_segs { return [answer_segment $last] }
        set_property {
            if {[lindex $arguments 0] eq "-dict"} {
                foreach {key value} [lindex $arguments 1] { set settings($last,$key) $value }
            }
        }
        get_property {
            if {[lindex $arguments 0] eq "CONFIG.FREQ_HZ"} {
                set key [expr {[string match *clk_out1 $last] ? "port_clock" : "port_taken"}]
                return [expr {round($scenario($key) * 1e6)}]
            }
            if {[lindex $arguments 0] eq "CONFIG.DATA_WIDTH"} {
                return $scenario(port_bits)
            }
            if {[string match *ACT_FREQMHZ [lindex $arguments 0]]} {
                return $scenario(clock)
            }
            return [dict get [list PROGRESS $scenario(progress) STATUS "route_design ERROR" STATS.WNS -0.250] \
                [lindex $arguments 0]]
        }
        make_wrapper - get_files - current_project - current_fileset - get_runs { return $command }
        launch_runs {
            write_text $work/systolora.runs/impl_1/systolora_wrapper.bit bits
            write_text $work/systolora.gen/sources_1/bd/systolora/hw_handoff/systolora.hwh handoff
        }
        report_timing_summary { write_text $last $scenario(timing) }
        version { return 2024.1 }
    }
    return {}
}

proc unknown {command args} {
    upvar #0 record record
    puts $record [list $command {*}$args]
    flush $record
    return [answer $command $args]
}

rename exit leave
proc exit {args} {
    return -level 0 {}
}

if {[catch {source $script} message]} {
    puts stderr $message
    leave 1
}
leave 0
