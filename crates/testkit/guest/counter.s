# A guest that needs no system: it counts, and tells each number when every disk has it.
#
# QEMU loads it as a kernel. What runs is the setup code of a kernel, in real mode, with the BIOS's services. On each disk it
# writes to 64 places, one after the other, 4 KiB apart, at 7.5 MiB: the number is in every word of a place's first sector.
# It asks for no cache of writes, so QEMU answers a write when the image has it.
#
# On COM1 it says "boot" and the highest number of each disk as it begins, and a number a line from then on; "fail" where a
# disk fails. All numbers have eight hexadecimal digits.

.code16
.set FIRST, 15360       # sector of the first place
.set PLACES, 64
.set APART, 8           # sectors from place to place
.set DISKS, 0x475       # the BIOS's count of disks

.org 0x1f1
.byte 1                 # sectors of setup code behind this one
.org 0x1fe
.word 0xaa55
.org 0x200
        jmp     begin
        .ascii  "HdrS"
        .word   0x0203
.org 0x211
        .byte   1       # a big kernel: setup code at 0x10000

.org 0x240
begin:  mov     %cs, %ax
        sub     $0x20, %ax
        mov     %ax, %ds
        mov     %ax, %es
        cld
        # 300 ticks a second
        mov     $0x34, %al
        out     %al, $0x43
        mov     $3977, %ax
        out     %al, $0x40
        mov     %ah, %al
        out     %al, $0x40
        sti

        # the highest number of each disk, and the lowest of these
        mov     $boot, %si
        call    say
        movl    $-1, number
        movb    $0x80, disk
look:   movl    $0, highest
        movw    $0, place
1:      mov     $0x42, %ah
        call    move
        mov     buffer, %eax
        cmp     highest, %eax
        jb      2f
        mov     %eax, highest
2:      incw    place
        cmpw    $PLACES, place
        jb      1b
        mov     $' ', %al
        call    put
        mov     highest, %eax
        call    tell
        mov     highest, %eax
        cmp     number, %eax
        jae     3f
        mov     %eax, number
3:      call    next
        jb      look
        call    line

count:  hlt
        incl    number
        mov     number, %eax
        mov     $buffer, %di
        mov     $128, %cx
        rep stosl
        mov     number, %ax
        and     $(PLACES - 1), %ax
        mov     %ax, place
        movb    $0x80, disk
4:      mov     $0x43, %ah
        call    move
        call    next
        jb      4b
        mov     number, %eax
        call    tell
        call    line
        jmp     count

# the next disk; carry is set if there is one
next:   incb    disk
        xor     %ax, %ax
        mov     %ax, %fs
        mov     %fs:DISKS, %al
        add     $0x80, %al
        mov     disk, %ah
        cmp     %al, %ah
        ret

# reads or writes (AH) the place
move:   push    %ax
        movzwl  place, %eax
        imul    $APART, %eax
        add     $FIRST, %eax
        mov     %eax, lba
        mov     %ds, segment
        pop     %ax
        xor     %al, %al
        mov     disk, %dl
        mov     $packet, %si
        int     $0x13
        jc      5f
        ret
5:      mov     $fail, %si
        call    say
        call    line
        hlt
        jmp     5b

# says EAX in hexadecimal
tell:   mov     %eax, %ebx
        mov     $8, %cx
6:      rol     $4, %ebx
        mov     %bl, %al
        and     $15, %al
        cmp     $10, %al
        jb      7f
        add     $('a' - '0' - 10), %al
7:      add     $'0', %al
        call    put
        loop    6b
        ret

say:    lodsb
        test    %al, %al
        jz      8f
        call    put
        jmp     say
line:   mov     $'\n', %al
put:    mov     $0x3f8, %dx
        out     %al, %dx
8:      ret

boot:   .asciz  "boot"
fail:   .asciz  "fail"

.balign 4
packet: .byte   16, 0
        .word   1, buffer
segment: .word  0
lba:    .quad   0
number: .long   0
highest: .long  0
place:  .word   0
disk:   .byte   0
.org 0x3ff
        .byte   0
buffer: .space 512      # where QEMU expects the rest of a kernel, too
.org 0x800
