-- Lock what is free or already the owner's. ARGV[3]: for how many microseconds. Returns 1 when held.
local other = holder()
if other and other ~= owner then
  return 0
end
return hold(ARGV[3])
